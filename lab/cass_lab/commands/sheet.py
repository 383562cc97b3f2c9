"""`cass sheet`: a whole data set to page through, as one HTML file. Light to import."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cass_cli.figures import keep_pictures, load_picture, stretch, stretch_boxes
from cass_cli.files import keep_inputs
from cass_cli.options import (
    CocoArgument,
    LimitOption,
    Preset,
    SetOption,
    SkipInvalidOption,
    StrideOption,
    feature_map,
    make_spec,
    printable,
)
from cass_cli.progress import load_coco, progress_bar
from cass_core.errors import InvalidRequest
from cass_lab.commands.plot import PredictorOption


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
    predictor: PredictorOption = None,
    limit: LimitOption = None,
    skip_invalid: SkipInvalidOption = False,
) -> None:
    """Write a contact sheet: pictures, boxes, masks of both presets, and a predictor's choices.

    It is one HTML file that any browser shows, without a server and without a network. With a
    predictor, pictures have the size that it was trained at, and a slider says what share of the
    patches is kept. A patch is one cell. --set changes both presets.

    Example: cass sheet test.json --images images/ --predictor out/models/X.pt --out sheet.html
    """
    from cass_core.coverage import boxes_without_patch
    from cass_core.masks import generate_mask
    from cass_lab.scoring import load_trained
    from cass_lab.sheet.page import SheetImage, sheet_page

    specs = [make_spec(preset, changes) for preset in (Preset.baseline, Preset.improved)]
    if any(spec.patch_size != 1 or spec.merge != "max" for spec in specs):
        raise InvalidRequest("--set", "patch_size and merge cannot be changed in a sheet")
    baseline, improved = specs
    keep_inputs("--out", out, coco, predictor)
    file = load_coco(coco, skip_invalid=skip_invalid, categories=True, limit=limit)
    if not file.image_ids:
        raise InvalidRequest(coco.name, "has no images")
    keep_pictures("--out", [out], images, file.file_names)
    trained = None if predictor is None else load_trained(predictor, stride)
    scored_by = predictor.name if predictor else None
    with (
        sheet_page(out, coco.name, stride, scored_by, file.class_names) as add,
        progress_bar() as progress,
    ):
        for i, image_id in enumerate(progress.track(file.image_ids, description="images")):
            size, mine = file.size(i), slice(file.offsets[i], file.offsets[i + 1])
            picture = load_picture(images, file.file_names[i], size, image_id)
            xyxy = file.xyxy[mine]
            if trained is not None:
                picture = stretch(picture, trained.image_size)
                xyxy = stretch_boxes(xyxy, size, trained.image_size)
                size = trained.image_size
            cells = feature_map(size, stride)
            mask, owner = generate_mask(
                [xyxy], size, cells, improved, dtype="uint8", return_owner=True
            )
            add(
                SheetImage(
                    str(image_id),
                    file.file_names[i],
                    picture,
                    xyxy,
                    file.labels[mine],
                    generate_mask([xyxy], size, cells, baseline, dtype="uint8")[0],
                    mask[0],
                    owner[0],
                    boxes_without_patch([xyxy], size, cells, improved),
                    None if trained is None else trained.logits(picture),
                )
            )
    typer.echo(printable(str(out)))
