"""A collate function like DEIM's, with MixUp and several scales, in a loader that tells the epoch.

Targets are normalised cxcywh, as RT-DETR, D-FINE and DEIM have them.
"""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from cass_client import CassClient, InvalidRequest
from cass_client.torch import MaskCollate, MaskTargets
from tests.stacks.support.scenes import STRIDES, check_masks, from_shares, sample

SHARES = torch.tensor([96.0, 64, 96, 64])


def normalised(index: int) -> tuple[Tensor, dict[str, Tensor]]:
    image, target = sample(index)
    low, high = target["boxes"][:, :2], target["boxes"][:, 2:]
    boxes = torch.cat([(low + high) / 2, high - low], dim=1) / SHARES
    return image.float() / 255, {"boxes": boxes, "labels": target["labels"]}


class BatchCollate:
    """MixUp until an epoch, and one of several square sizes for each batch."""

    def __init__(self, sides: tuple[int, ...], stop_epoch: int) -> None:
        self.sides, self.stop_epoch, self.epoch = sides, stop_epoch, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __call__(self, samples: Any) -> tuple[Tensor, list[dict[str, Any]]]:
        images = torch.stack([image for image, _ in samples])
        targets = [target for _, target in samples]
        if self.epoch < self.stop_epoch:
            share = random.uniform(0.45, 0.55)
            images = share * images + (1 - share) * images.roll(1, 0)
            before = targets[-1:] + targets[:-1]
            targets = [
                {key: torch.cat([own[key], other[key]]) for key in own}
                for own, other in zip(targets, before, strict=True)
            ]
            side = random.choice(self.sides)
            images = torch.nn.functional.interpolate(images, (side, side))
        return images, targets


class EpochLoader(DataLoader[Any]):
    """Tells its collate function the epoch, as the loaders of that family do."""

    def set_epoch(self, epoch: int) -> None:
        self.collate_fn.set_epoch(epoch)


FORM: dict[str, Any] = {"box_format": "cxcywh", "normalized": True}


@pytest.mark.parametrize("way", ["worker", "targets", "loop"])
def test_masks_of_mixed_images(way: str) -> None:
    random.seed(4)
    client = CassClient("local:")
    collate: Any = BatchCollate((96, 128, 160), stop_epoch=1)
    if way != "loop":
        into: Any = "targets" if way == "targets" else "batch"
        collate = MaskCollate(
            client, strides=STRIDES, collate_fn=collate, after=True, into=into, **FORM
        )
    loader: Any = EpochLoader([normalised(i) for i in range(8)], 4, collate_fn=collate)
    if way == "loop":
        loader = MaskTargets(client, strides=STRIDES, **FORM).wrap(loader)
    for epoch, objects in enumerate((8, 4)):
        loader.set_epoch(epoch)
        assert loader.collate_fn.stop_epoch == 1
        for images, targets, *masks in loader:
            size = tuple(images.shape[2:])
            assert (size == (64, 96)) == (epoch == 1)
            levels = masks[0] if masks else [
                torch.stack([target[f"masks_{i}"] for target in targets]) for i in range(3)
            ]  # fmt: skip
            corners = [from_shares(target["boxes"], size) for target in targets]
            assert [len(boxes) for boxes in corners] == [objects] * 4
            check_masks(levels, corners, size)


def test_without_a_word_it_is_refused() -> None:
    collate = MaskCollate(CassClient("local:"), strides=STRIDES, collate_fn=None)
    with pytest.raises(InvalidRequest, match="set normalized=True, and box_format"):
        collate([normalised(i) for i in range(4)])
