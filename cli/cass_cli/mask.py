"""`cass mask`: masks for every image of a COCO file."""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import typer

from cass_cli import figures
from cass_cli.coco import CocoFile
from cass_cli.connection import Connection
from cass_cli.files import keep_inputs
from cass_cli.mask_file import mask_file
from cass_cli.options import (
    CocoArgument,
    ImagesOption,
    Preset,
    PresetOption,
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
from cass_cli.progress import load_coco, progress_bar
from cass_core.coverage import boxes_without_patch
from cass_core.errors import InvalidRequest
from cass_core.grid import patch_grid
from cass_core.specs import MaskSpec, WeightSpec

LEFT_OUT = "left out of masks: patches that they cover weigh 0"
_BATCH_IMAGES = 64
_BATCH_PATCHES = 1 << 20


class Balance(StrEnum):
    """What an object's patches weigh."""

    patch = "patch"
    object = "object"


class MaskDtype(StrEnum):
    """What masks are stored as."""

    float32 = "float32"
    float16 = "float16"
    uint8 = "uint8"


@takes("connection", Connection)
def mask(
    *,
    coco: CocoArgument,
    out: Annotated[
        Path, typer.Option(metavar="FILE.npz", dir_okay=False, help="The file to write.")
    ],
    stride: StrideOption = 32,
    preset: PresetOption = Preset.recommended,
    changes: SetOption = None,
    dtype: Annotated[
        MaskDtype, typer.Option(help="uint8 stands for value / 255.")
    ] = MaskDtype.float32,
    balance: Annotated[
        Balance,
        typer.Option(help="Whether patches weigh alike, or the objects of an image together."),
    ] = Balance.patch,
    background_weight: Annotated[
        float, typer.Option(metavar="W", help="Of a patch that no box gave a value.")
    ] = 1.0,
    plot: Annotated[
        Path | None,
        typer.Option(metavar="DIR", file_okay=False, help="Also draw each mask into this folder."),
    ] = None,
    images: ImagesOption = None,
    skip_invalid: SkipInvalidOption = False,
    connection: Connection,
) -> None:
    """Write the masks of all images of a COCO file to one .npz, and what their patches weigh.

    The file holds image_ids, shapes [N, 2], offsets [N + 1] and masks: [N, n_y, n_x] where all
    masks have one shape, else flat, mask i being masks[offsets[i]:offsets[i + 1]]. An image without
    boxes has a mask of zeros. The weights, in float32, are stored likewise, for a loss (cass_core's
    compute_loss, MaskLoss): crowd regions (iscrowd) and ignored objects (ignore) have no part in
    masks, and patches that they cover weigh 0, but for those of an object. With --balance object,
    those of one object weigh together as much as those of any other of its image.

    Example: cass mask instances.json --stride 32 --out masks.npz
    """
    if images is not None and plot is None:
        raise InvalidRequest("--images", "is for figures: give --plot too")
    if plot is not None:
        figures.require_plots()
        keep_inputs("--plot", plot, images)
    keep_inputs("--out", out, coco)
    if not out.absolute().parent.is_dir():
        raise InvalidRequest("--out", f"the folder {out.absolute().parent} does not exist")
    spec = make_spec(preset, changes)
    weight_spec = WeightSpec(balance.value, background_weight)
    file = load_coco(coco, skip_invalid=skip_invalid, left_out=LEFT_OUT)
    paths = [] if plot is None else figures.figure_paths(plot, file.image_ids)
    figures.keep_pictures("--out", [out], images, file.file_names)
    figures.keep_pictures("--plot", paths, images, file.file_names)
    maps = np.array([feature_map(size, stride) for size in file.sizes], np.int64).reshape(-1, 2)
    shapes = np.array(
        [patch_grid((int(h), int(w)), spec.patch_size) for h, w in maps], np.int64
    ).reshape(-1, 2)
    without_patch = 0
    with (
        connection.client() as client,
        mask_file(out, file.image_ids, shapes, dtype.value) as write,
        progress_bar() as progress,
    ):
        task = progress.add_task("images", total=len(file.image_ids))
        # Objects are balanced within a call, so that a call has one image then.
        most = 1 if weight_spec.balance == "object" else _BATCH_IMAGES
        for first, last in _batches(maps, shapes, most):
            cells = (int(maps[first, 0]), int(maps[first, 1]))
            boxes, sizes = file.boxes(first, last), file.sizes[first:last]
            masks, weights = client.generate_mask(
                boxes,
                sizes,
                cells,
                spec,
                weight_spec=weight_spec,
                ignore=file.ignored_boxes(first, last),
                return_weights=True,
                dtype=dtype.value,
            )
            write(masks, weights)
            bare = boxes_without_patch(boxes, sizes, cells, spec)
            without_patch += int(bare.sum())
            own = np.split(bare, file.offsets[first + 1 : last] - file.offsets[first])
            for i, values in enumerate(zip(masks, weights, strict=True), start=first):
                if plot is not None:
                    _draw(file, i, values, own[i - first], cells, spec, images, paths[i])
                progress.advance(task)
    words = f"{out}: {len(file.image_ids)} masks of {len(file.xyxy)} boxes"
    if out.is_file():
        words += f", {out.stat().st_size:,} bytes"
    typer.echo(printable(words), err=True)
    report_without_patch(without_patch, len(file.xyxy), spec, stride)


def _batches(
    maps: npt.NDArray[np.int64], shapes: npt.NDArray[np.int64], most_images: int
) -> Iterator[tuple[int, int]]:
    """Runs of images with one feature map, short enough that their masks fit in memory."""
    first = 0
    while first < len(maps):
        patches = int(shapes[first].prod())
        most = max(1, min(most_images, _BATCH_PATCHES // patches))
        last = first + 1
        while last < len(maps) and last - first < most and (maps[last] == maps[first]).all():
            last += 1
        yield first, last
        first = last


def _draw(
    file: CocoFile,
    i: int,
    values: tuple[npt.NDArray[Any], npt.NDArray[Any]],
    bare: npt.NDArray[np.bool_],
    cells: tuple[int, int],
    spec: MaskSpec,
    images: Path | None,
    path: Path,
) -> None:
    from cass_core.plotting.figures import plot_mask

    path.parent.mkdir(parents=True, exist_ok=True)
    picture = figures.load_picture(images, file.file_names[i], file.size(i), file.image_ids[i])
    xyxy = file.xyxy[file.offsets[i] : file.offsets[i + 1]]
    picture, xyxy, size, _ = figures.drawable(figures.Scene(picture, xyxy, file.size(i)))
    mask, weights = values
    figure = plot_mask(
        picture,
        xyxy,
        mask,
        image_size=size,
        without_patch=bare,
        weights=weights,
        patch_pixels=patch_pixels(size, cells, spec.patch_size),
        title=str(file.image_ids[i]),
    )
    figures.save(figure, path)
