"""`cass plot`, with the scores of a trained predictor and the patches that they keep."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from cass_cli.connection import Connection
from cass_cli.figures import Scene, stretch, stretch_boxes
from cass_cli.options import takes
from cass_cli.plot import PlotOptions, draw
from cass_core.errors import InvalidRequest

_KEEP = 0.3

PredictorOption = Annotated[
    Path | None,
    typer.Option(
        metavar="X.pt",
        dir_okay=False,
        help="A model of cass ablate (OUT/models): also draw its scores and what they keep.",
    ),
]


@takes("connection", Connection)
@takes("options", PlotOptions)
def plot(
    *,
    options: PlotOptions,
    predictor: PredictorOption = None,
    keep: Annotated[
        float | None,
        typer.Option(
            min=0.0, max=1.0, help=f"Share of patches to keep by the scores; by default {_KEEP}."
        ),
    ] = None,
    connection: Connection,
) -> None:
    """Draw the masks of one image by both presets, their difference, and whose patch is whose.

    With a predictor the image is stretched to the size that it was trained at, and two panels more
    show its scores and the patches that are kept. An object that loses all of its patches has a
    dashed red outline. Patches that weigh 0, since a crowd region or an ignored object covers them,
    are hatched.

    Example: cass plot instances.json --image 42 --images train/ --out 42.png
    """
    if predictor is None and keep is not None:
        raise InvalidRequest("--keep", "is for scores: give --predictor too")
    scene = options.scene()
    scores: dict[str, Any] = {}
    if predictor is not None:
        from cass_lab.scoring import load_trained, pruned

        if scene.picture is None:
            raise InvalidRequest("--predictor", "scores pictures: give --images too")
        trained = load_trained(predictor, options.stride)
        size = trained.image_size
        xyxy = stretch_boxes(scene.xyxy, scene.size, size)
        ignored = stretch_boxes(scene.ignored, scene.size, size)
        scene = Scene(stretch(scene.picture, size), xyxy, size, ignored)
        logits = trained.logits(scene.picture)
        kept, lost = pruned(logits, xyxy, size, _KEEP if keep is None else keep)
        scores = {"logits": logits, "kept": kept, "lost": lost}
    draw(connection, options, scene, **scores)
