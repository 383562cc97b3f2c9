"""Batches of ultralytics' RT-DETR dataset, with its mosaic and MixUp.

It is licensed under the AGPL: it is run here in an environment of its own, and is no dependency.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from cass_client import CassClient
from cass_client.torch import MaskCollate, MaskTargets
from tests.stacks.support.scenes import STRIDES, check_masks, from_shares, scene

pytest.importorskip("ultralytics", reason="ultralytics is not installed: make stacks-test")

from ultralytics.cfg import get_cfg
from ultralytics.models.rtdetr.val import RTDETRDataset

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

LOCAL = CassClient("local:")
SIDE = 96


def write_set(folder: Path) -> None:
    """Eight drawn scenes with labels as YOLO has them."""
    for kind in ("images", "labels"):
        (folder / kind).mkdir()
    for i in range(8):
        Image.fromarray(scene(i).image).save(folder / "images" / f"{i}.png")
        x1, y1, x2, y2 = (scene(i).boxes.clip(0, [96, 64, 96, 64]) / [96, 64, 96, 64]).T
        rows = np.stack([0 * x1, (x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1], axis=1)
        np.savetxt(folder / "labels" / f"{i}.txt", rows, fmt="%g")


@pytest.mark.parametrize("augment", [False, True])
@pytest.mark.parametrize("way", ["before", "after", "loop"])
def test_batches(tmp_path: Path, augment: bool, way: str) -> None:
    write_set(tmp_path)
    hyp = get_cfg(overrides={"mosaic": 1.0, "mixup": 1.0})
    data = RTDETRDataset(
        img_path=str(tmp_path / "images"), imgsz=SIDE, hyp=hyp, augment=augment, batch_size=4,
        data={"names": {0: "thing"}, "channels": 3, "nc": 1}, task="detect",
    )  # fmt: skip
    collate: Any = data.collate_fn
    if way != "loop":
        collate = MaskCollate(LOCAL, strides=STRIDES, collate_fn=collate, after=way == "after")
    loader: Any = torch.utils.data.DataLoader(data, 4, collate_fn=collate)
    if way == "loop":
        loader = MaskTargets(LOCAL, strides=STRIDES).wrap(loader)
    counts = []
    for batch in loader:
        assert batch["img"].shape == (4, 3, SIDE, SIDE)
        corners = [
            from_shares(batch["bboxes"][batch["batch_idx"] == i], (SIDE, SIDE)) for i in range(4)
        ]
        check_masks(batch["masks"], corners, (SIDE, SIDE))
        counts.append(sum(map(len, corners)))
    assert len(counts) == 2
