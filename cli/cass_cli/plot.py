"""`cass plot`: what the masks of one image are."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from cass_cli import figures
from cass_cli.connection import Connection
from cass_cli.files import keep_inputs
from cass_cli.mask import LEFT_OUT
from cass_cli.options import (
    CocoArgument,
    ImagesOption,
    Preset,
    SetOption,
    SkipInvalidOption,
    StrideOption,
    feature_map,
    make_spec,
    patch_pixels,
    printable,
    report_without_patch,
    takes,
)
from cass_cli.progress import load_coco


@dataclass(frozen=True)
class PlotOptions:
    """What to draw and where; each field is an option."""

    coco: CocoArgument
    image: Annotated[str, typer.Option(metavar="ID", help="Id of the image in the file.")]
    out: Annotated[
        Path, typer.Option(metavar="FILE.png", dir_okay=False, help="The figure to write.")
    ]
    stride: StrideOption = 8
    changes: SetOption = None
    images: ImagesOption = None
    skip_invalid: SkipInvalidOption = False

    def scene(self) -> figures.Scene:
        """The image of that id.

        Raises:
            InvalidRequest: the file or the picture cannot be used, or has no such image.
        """
        keep_inputs("--out", self.out, self.coco)
        file = load_coco(self.coco, skip_invalid=self.skip_invalid, left_out=LEFT_OUT)
        i = file.index(self.image)
        name, size = file.file_names[i], file.size(i)
        figures.keep_pictures("--out", [self.out], self.images, file.file_names)
        picture = figures.load_picture(self.images, name, size, self.image)
        xyxy, ignored = (np.asarray(of(i, i + 1).xyxy) for of in (file.boxes, file.ignored_boxes))
        return figures.Scene(picture, xyxy, size, ignored)


@takes("connection", Connection)
@takes("options", PlotOptions)
def plot(*, options: PlotOptions, connection: Connection) -> None:
    """Draw the masks of one image by both presets, their difference, and whose patch is whose.

    Patches that weigh 0, since a crowd region or an ignored object covers them, are hatched.

    Example: cass plot instances.json --image 42 --images train/ --out 42.png
    """
    figures.require_plots()
    draw(connection, options, options.scene())


def draw(connection: Connection, options: PlotOptions, scene: figures.Scene, **scores: Any) -> None:
    """Write the figure.

    Args:
        connection: where to compute.
        options: for the stride, the changes of both presets and the file.
        scene: what to draw.
        scores: ``logits``, ``kept`` and ``lost`` of `cass_core.plotting.predictions.plot_overview`.
    """
    from cass_core.coverage import boxes_without_patch
    from cass_core.plotting.predictions import plot_overview

    _, xyxy, size, ignored = scene
    before, after = (
        make_spec(preset, options.changes) for preset in (Preset.baseline, Preset.improved)
    )
    cells = feature_map(size, options.stride)
    with connection.client() as client:
        baseline = client.generate_mask([xyxy], size, cells, before)[0]
        # Nobody owns a sum, and without ignored regions all weigh alike.
        owned, weighted = after.merge == "max", len(ignored) > 0
        found = client.generate_mask(
            [xyxy],
            size,
            cells,
            after,
            ignore=[ignored],
            return_owner=owned,
            return_weights=weighted,
        )
        parts = iter(found if owned or weighted else [found])
        improved = next(parts)[0]
        owner, weights = (next(parts)[0] if wanted else None for wanted in (owned, weighted))
    bare = boxes_without_patch([xyxy], size, cells, after)
    picture, xyxy, size, _ = figures.drawable(scene)
    figure = plot_overview(
        picture,
        xyxy,
        baseline,
        improved,
        owner=owner,
        weights=weights,
        **scores,
        image_size=size,
        without_patch=bare,
        patch_pixels=patch_pixels(size, cells, before.patch_size),
    )
    figures.save(figure, options.out)
    typer.echo(printable(str(options.out)))
    report_without_patch(int(bare.sum()), len(bare), after, options.stride)
