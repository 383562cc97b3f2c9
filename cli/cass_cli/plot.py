"""`cass plot`: what the masks of one image are."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import typer

from cass_cli import figures
from cass_cli.coco import read_coco
from cass_cli.connection import Connection
from cass_cli.options import (
    CocoArgument,
    ImagesOption,
    Preset,
    SetOption,
    StrideOption,
    feature_map,
    make_spec,
    patch_pixels,
    takes,
)

ImageOption = Annotated[str, typer.Option(metavar="ID", help="Id of the image in the file.")]
OutOption = Annotated[
    Path, typer.Option(metavar="FILE.png", dir_okay=False, help="The figure to write.")
]


class Scene(NamedTuple):
    """An image of a file.

    Attributes:
        picture: ``[H, W, 3]`` uint8; None for a plain canvas.
        xyxy: ``[N, 4]`` boxes in pixels.
        size: (H, W) in pixels.
    """

    picture: Any
    xyxy: npt.NDArray[np.float32]
    size: tuple[int, int]


@takes("connection", Connection)
def plot(
    connection: Connection,
    coco: CocoArgument,
    image: ImageOption,
    out: OutOption,
    stride: StrideOption = 8,
    changes: SetOption = None,
    images: ImagesOption = None,
) -> None:
    """Draw the masks of one image by both presets, their difference, and whose patch is whose.

    Example: cass plot instances.json --image 42 --images train/ --out 42.png
    """
    figures.require_plots()
    draw(connection, read_scene(coco, image, images), out, stride, changes)


def read_scene(coco: Path, image: str, images: Path | None) -> Scene:
    """The image of that id.

    Raises:
        InvalidRequest: the file or the picture cannot be used, or has no such image.
    """
    file = read_coco(coco)
    i = file.index(image)
    size = (int(file.sizes[i, 0]), int(file.sizes[i, 1]))
    picture = figures.load_picture(images, file.file_names[i], size)
    return Scene(picture, file.xyxy[file.offsets[i] : file.offsets[i + 1]], size)


def draw(
    connection: Connection,
    scene: Scene,
    out: Path,
    stride: int,
    changes: Sequence[str] | None,
    **scores: Any,
) -> None:
    """Write the figure.

    Args:
        scores: ``logits``, ``kept`` and ``lost`` of `cass_core.plotting.predictions.plot_overview`.
    """
    from cass_core.plotting.predictions import plot_overview

    picture, xyxy, size = scene
    before, after = (make_spec(preset, changes) for preset in (Preset.baseline, Preset.improved))
    cells = feature_map(size, stride)
    with connection.client() as client:
        baseline = client.generate_mask([xyxy], size, cells, before)[0]
        if after.merge == "max":
            masks, owners = client.generate_mask([xyxy], size, cells, after, return_owner=True)
            improved, owner = masks[0], owners[0]
        else:  # nobody owns a sum
            improved, owner = client.generate_mask([xyxy], size, cells, after)[0], None
    figure = plot_overview(
        picture,
        xyxy,
        baseline,
        improved,
        owner=owner,
        **scores,
        image_size=size,
        patch_pixels=patch_pixels(size, cells, before.patch_size),
    )
    figures.save(figure, out)
    typer.echo(str(out))
