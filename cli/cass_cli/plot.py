"""`cass plot`: what the masks of one image are, and what a trained predictor makes of it."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from typing import Annotated, Any

import typer

from cass_cli import figures
from cass_cli.coco import read_coco
from cass_cli.connection import Connection, takes_connection
from cass_cli.options import (
    CocoArgument,
    ImagesOption,
    Preset,
    SetOption,
    StrideOption,
    feature_map,
    make_spec,
    patch_pixels,
)
from cass_core.errors import CassError, InvalidRequest

_KEEP = 0.3


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
    predictor: Annotated[
        Path | None,
        typer.Option(
            metavar="X.pt",
            dir_okay=False,
            help="A model of cass ablate (OUT/models): also draw its scores and what they keep.",
        ),
    ] = None,
    keep: Annotated[
        float | None,
        typer.Option(
            min=0.0, max=1.0, help=f"Share of patches to keep by the scores; by default {_KEEP}."
        ),
    ] = None,
) -> None:
    """Draw the masks of one image by both presets, their difference, and whose patch is whose.

    With a predictor the image is stretched to the size that it was trained at, and two panels more
    show its scores and the patches that are kept. An object that loses all of its patches has a
    dashed red outline.

    Example: cass plot instances.json --image 42 --images train/ --set patch_size=1 --out 42.png
    """
    figures.require_plots()
    from cass_core.plotting.figures import plot_overview

    if predictor is None and keep is not None:
        raise InvalidRequest("--keep", "is for scores: give --predictor too")
    file = read_coco(coco)
    i = file.index(image)
    size = (int(file.sizes[i, 0]), int(file.sizes[i, 1]))
    picture = figures.load_picture(images, file.file_names[i], size)
    xyxy = file.xyxy[file.offsets[i] : file.offsets[i + 1]]
    scores: dict[str, Any] = {}
    if predictor is not None:
        if picture is None:
            raise InvalidRequest("--predictor", "scores pictures: give --images too")
        lab = _scoring()
        trained = lab.load_trained(predictor, stride)
        picture = lab.stretch(picture, trained.image_size)
        xyxy = lab.stretch_boxes(xyxy, size, trained.image_size)
        size = trained.image_size
        logits = trained.logits(picture)
        kept, lost = lab.pruned(logits, xyxy, size, _KEEP if keep is None else keep)
        scores = {"logits": logits, "kept": kept, "lost": lost}
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


def _scoring() -> Any:
    """`cass_lab.scoring`: it stands above this package, so it is found by its name."""
    if not all(importlib.util.find_spec(name) for name in ("cass_lab", "torch")):
        raise CassError('--predictor needs torch; install it with: pip install "cass[lab]"')
    return importlib.import_module("cass_lab.scoring")
