"""`cass sheet`: a whole data set to page through, as one HTML file. Light to import."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from cass_cli.figures import load_picture
from cass_cli.options import (
    CocoArgument,
    Preset,
    SetOption,
    StrideOption,
    feature_map,
    make_spec,
)
from cass_cli.progress import progress_bar
from cass_core.errors import InvalidRequest


def sheet(
    coco: CocoArgument,
    images: Annotated[
        Path,
        typer.Option(metavar="DIR", exists=True, file_okay=False, help="Folder with the pictures."),
    ],
    out: Annotated[
        Path, typer.Option(metavar="FILE.html", dir_okay=False, help="The page to write.")
    ],
    stride: StrideOption = 8,
    changes: SetOption = None,
    predictor: Annotated[
        Path | None,
        typer.Option(
            metavar="X.pt",
            dir_okay=False,
            help="A model of cass ablate (OUT/models): also show its scores and what they keep.",
        ),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Take so many images, the first of the file.")
    ] = None,
) -> None:
    """Write a contact sheet: pictures, boxes, masks of both presets, and a predictor's choices.

    It is one HTML file that any browser shows, without a server and without a network. With a
    predictor, pictures have the size that it was trained at, and a slider says what share of the
    patches is kept. A patch is one cell. --set changes both presets.

    Example: cass sheet test.json --images images/ --predictor out/models/X.pt --out sheet.html
    """
    from cass_cli.coco import read_coco
    from cass_core.masks import generate_mask
    from cass_lab.data.dataset import read_class_names
    from cass_lab.scoring import load_trained, stretch, stretch_boxes
    from cass_lab.sheet.page import SheetImage, SheetWriter

    specs = [make_spec(preset, changes) for preset in (Preset.baseline, Preset.improved)]
    if any(spec.patch_size != 1 or spec.merge != "max" for spec in specs):
        raise InvalidRequest("--set", "patch_size and merge cannot be changed in a sheet")
    baseline, improved = specs
    file = read_coco(coco)
    labels = read_class_names(coco)
    names = sorted(set(labels))
    number = {name: k for k, name in enumerate(names)}
    count = min(limit or len(file.image_ids), len(file.image_ids))
    if not count:
        raise InvalidRequest(coco.name, "has no images")
    trained = None if predictor is None else load_trained(predictor, stride)
    with (
        SheetWriter(out, coco.name, stride, predictor.name if predictor else None, names) as writer,
        progress_bar() as progress,
    ):
        for i in progress.track(range(count), description="images"):
            size = (int(file.sizes[i, 0]), int(file.sizes[i, 1]))
            picture = load_picture(images, file.file_names[i], size)
            mine = slice(file.offsets[i], file.offsets[i + 1])
            xyxy = file.xyxy[mine]
            if trained is not None:
                picture = stretch(picture, trained.image_size)
                xyxy = stretch_boxes(xyxy, size, trained.image_size)
                size = trained.image_size
            cells = feature_map(size, stride)
            mask, owner = generate_mask(
                [xyxy], size, cells, improved, dtype="uint8", return_owner=True
            )
            writer.add(
                SheetImage(
                    str(file.image_ids[i]),
                    file.file_names[i],
                    picture,
                    xyxy,
                    np.array([number[name] for name in labels[mine]], np.int64),
                    generate_mask([xyxy], size, cells, baseline, dtype="uint8")[0],
                    mask[0],
                    owner[0],
                    None if trained is None else trained.logits(picture),
                )
            )
    typer.echo(str(out))
