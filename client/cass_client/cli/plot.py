"""`cass plot`: baseline and improved mask of one image, and their difference."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cass_client.cli import figures
from cass_client.cli.connection import Connection, takes_connection
from cass_client.cli.options import (
    CocoArgument,
    ImagesOption,
    Preset,
    SetOption,
    StrideOption,
    feature_map,
    make_spec,
    patch_pixels,
)
from cass_client.coco import read_coco


@takes_connection
def plot(
    connection: Connection,
    coco: CocoArgument,
    image: Annotated[str, typer.Option(metavar="ID", help="Id of the image in the file.")],
    out: Annotated[
        Path, typer.Option(metavar="FILE.png", dir_okay=False, help="The figure to write.")
    ],
    stride: StrideOption = 8,
    changes: SetOption = None,
    images: ImagesOption = None,
) -> None:
    """Draw the baseline mask of one image beside the improved one, and their difference.

    Example: cass plot instances.json --image 42 --images train/ --set patch_size=1 --out 42.png
    """
    figures.require_plots()
    from cass_core.plots import plot_comparison

    file = read_coco(coco)
    i = file.index(image)
    size = (int(file.sizes[i, 0]), int(file.sizes[i, 1]))
    specs = [make_spec(preset, changes) for preset in (Preset.baseline, Preset.improved)]
    boxes, cells = file.boxes(i, i + 1), feature_map(size, stride)
    with connection.client() as client:
        masks = [client.generate_mask(boxes, size, cells, spec)[0] for spec in specs]
    figure = plot_comparison(
        figures.load_picture(images, file.file_names[i], size),
        boxes.xyxy,
        *masks,
        image_size=size,
        patch_pixels=patch_pixels(size, cells, specs[0].patch_size),
    )
    figures.save(figure, out)
    typer.echo(str(out))
