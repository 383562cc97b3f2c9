"""What `make bench-loader` loads: JPEGs with boxes, and the ways to collate them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from benchmarks.common.workload import SPEC
from benchmarks.core.audited import audited_masks
from cass_cli.coco import read_coco
from cass_client import CassClient
from cass_client.torch import MaskCollate
from cass_core.synthetic import street_scene

SIDE = 640
STRIDES = (8, 16, 32)
MAPS = [(SIDE // stride, SIDE // stride) for stride in STRIDES]
_DRAWN_SIZE, _DRAWN_BOXES = (380, 640), 8

Sample = tuple[Tensor, dict[str, Tensor]]


@dataclass(frozen=True, slots=True)
class Picture:
    """A JPEG and its boxes, ``[N, 4]`` float32 xyxy in its pixels."""

    path: Path
    boxes: npt.NDArray[np.float32]


class Pictures(Dataset[Sample]):
    """Decodes a JPEG and resizes it to 640×640, with its boxes."""

    def __init__(self, pictures: Sequence[Picture]) -> None:
        self._pictures = pictures

    def __len__(self) -> int:
        return len(self._pictures)

    def __getitem__(self, index: int) -> Sample:
        picture = self._pictures[index]
        with Image.open(picture.path) as opened:
            width, height = opened.size
            resized = opened.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BILINEAR)
        scale = np.array([SIDE / width, SIDE / height] * 2, np.float32)
        image = torch.from_numpy(np.array(resized)).permute(2, 0, 1)
        return image, {"boxes": torch.from_numpy(picture.boxes * scale)}


def coco_pictures(folder: Path, count: int) -> list[Picture]:
    """The first pictures of ``test.json`` beside ``images/``."""
    file = read_coco(folder / "test.json")
    offsets = file.offsets
    return [
        Picture(folder / "images" / name, file.xyxy[offsets[i] : offsets[i + 1]])
        for i, name in enumerate(file.file_names[:count])
    ]


def drawn_pictures(folder: Path, count: int) -> list[Picture]:
    """Drawn scenes of the size of CARLA's, saved in the folder."""
    pictures = []
    for seed in range(count):
        scene = street_scene(seed, image_size=_DRAWN_SIZE, boxes=_DRAWN_BOXES)
        path = folder / f"{seed}.jpg"
        Image.fromarray(scene.image).save(path, quality=90)
        pictures.append(Picture(path, scene.boxes))
    return pictures


def stack(samples: Sequence[Sample]) -> tuple[Any, ...]:
    """Images ``[B, 3, 640, 640]`` uint8, targets as they are."""
    images, targets = zip(*samples, strict=True)
    return torch.stack(images), list(targets)


def collates(remote: CassClient) -> dict[str, Callable[[Sequence[Sample]], tuple[Any, ...]]]:
    """The ways to collate, by name; those without masks first."""

    def audited(samples: Sequence[Sample]) -> tuple[Any, ...]:
        boxes = [target["boxes"] for _, target in samples]
        masks = [audited_masks(boxes, (SIDE, SIDE), cells, patch_size=1) for cells in MAPS]
        return (*stack(samples), masks)

    return {
        "no masks": stack,
        "remote": MaskCollate(remote, MAPS, SPEC, collate_fn=stack),
        "local:": MaskCollate(CassClient("local:"), MAPS, SPEC, collate_fn=stack),
        "audited": audited,
    }
