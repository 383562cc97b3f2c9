"""The lines of docs/loaders.md for each stack, with what they take as given."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from tests.e2e.pages import page, programs
from tests.stacks.support.scenes import SIZE, STRIDES, check_masks, from_shares, sample, scene
from tests.stacks.test_deim import FORM, BatchCollate, normalised

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

(SECTION,) = re.findall("## Training stacks.*?(?=\n## )", page("docs/loaders.md"), re.DOTALL)
CORNERS = [scene(i).boxes for i in range(4)]


def run(heading: str, needs: str = "", **given: Any) -> dict[str, Any]:
    """The names that a section's program leaves, after the ones that it takes as given."""
    if needs:
        pytest.importorskip(needs, reason=f"{needs} is not installed: make stacks-test")
    _, found, text = SECTION.partition(f"\n### {heading}\n")
    assert found
    (program,) = programs(text.partition("\n### ")[0])
    exec(program, given)
    return given


def test_every_section_is_run() -> None:
    run_by_name = set(re.findall(r'run\(\s*"([^"]+)"', Path(__file__).read_text(encoding="utf-8")))
    assert set(re.findall(r"^### (.*)$", SECTION, re.MULTILINE)) == run_by_name


def test_hugging_face() -> None:
    given = run("Hugging Face Trainer", "transformers", collate_fn=lambda samples: {
        "pixel_values": torch.stack([s["pixel_values"] for s in samples]),
        "labels": [s["labels"] for s in samples],
    })  # fmt: skip
    samples = []
    for i in range(4):
        image, target = normalised(i)
        labels = {"class_labels": target["labels"], "boxes": target["boxes"], "size": SIZE}
        samples.append({"pixel_values": image, "labels": labels})
    batch = given["data_collator"](samples)
    check_masks(batch["masks"], CORNERS, SIZE)
    levels = [torch.randn(4, 8, *mask.shape[1:]) for mask in batch["masks"]]

    class Outputs:
        loss, encoder_last_hidden_state = torch.zeros(()), levels

    class Model(nn.Module):
        token_head = nn.Conv2d(8, 1, 1)

        def forward(self, pixel_values: Any, labels: Any) -> Any:
            return Outputs()

    trainer = given["CassTrainer"]
    assert "compute_loss" in dir(inspect.getmro(trainer)[1])
    loss = trainer.compute_loss(None, Model(), batch)
    assert loss.requires_grad


def test_deim() -> None:
    loader: Any = DataLoader(
        [normalised(i) for i in range(4)], 4, collate_fn=BatchCollate((96,), stop_epoch=0)
    )
    run("RT-DETR, D-FINE, DEIM", loader=loader)
    loader.collate_fn.set_epoch(1)
    ((_, targets),) = loader
    masks = [torch.stack([target[f"masks_{i}"] for target in targets]) for i in range(3)]
    check_masks(masks, CORNERS, SIZE)
    assert FORM == {"box_format": "cxcywh", "normalized": True}


def test_torchvision() -> None:
    given = run("torchvision", "torchvision")
    from torchvision import tv_tensors

    samples = []
    for i in range(4):
        image, target = sample(i)
        boxes = tv_tensors.BoundingBoxes(target["boxes"], format="XYXY", canvas_size=SIZE)
        samples.append(given["transforms"](image, {**target, "boxes": boxes}))
    _, targets, masks = given["collate_fn"](samples)
    corners = [from_shares(target["boxes"], (1, 1)) for target in targets]  # in pixels already
    check_masks(masks, corners, SIZE)


def test_lightning() -> None:
    scenes = run("Lightning", "lightning", dataset=[sample(i) for i in range(4)])["Scenes"]
    ((_, targets),) = scenes().train_dataloader()
    masks = [torch.stack([target[f"masks_{i}"] for target in targets]) for i in range(3)]
    check_masks(masks, CORNERS, SIZE)


def test_mmengine() -> None:
    collate = run("mmengine", "mmengine")["collate_fn"]
    from mmengine.structures import BaseDataElement, InstanceData

    samples = []
    for i, boxes in enumerate(CORNERS):
        found = BaseDataElement()
        found.gt_instances = InstanceData(bboxes=torch.from_numpy(boxes))
        samples.append({"inputs": sample(i)[0], "data_samples": found})
    check_masks(collate(samples)["masks"], CORNERS, SIZE)


def test_supervision() -> None:
    scenes = [(scene(i).image, boxes) for i, boxes in enumerate(CORNERS)]
    check_masks(run("supervision", "supervision", scenes=scenes)["masks"], CORNERS, SIZE)


def test_albumentations() -> None:
    given = run("albumentations", "albumentations")
    samples = []
    for i in range(4):
        image, target = normalised(i)
        rows = np.clip(target["boxes"].numpy(), 1e-6, 1).tolist()
        inside = [row for row in rows if row[0] - row[2] / 2 >= 0 and row[0] + row[2] / 2 <= 1
                  and row[1] - row[3] / 2 >= 0 and row[1] + row[3] / 2 <= 1]  # fmt: skip
        array = image.permute(1, 2, 0).numpy()
        made = given["transform"](image=array, bboxes=inside, labels=list(range(len(inside))))
        samples.append({"image": made["image"], "bboxes": made["bboxes"]})
    batch = given["collate_fn"](samples)
    check_masks(batch["masks"], [from_shares(s["bboxes"], (48, 80)) for s in samples], (48, 80))


def test_ultralytics(tmp_path: Path) -> None:
    cfg = pytest.importorskip("ultralytics.cfg", reason="ultralytics is not installed")
    from tests.stacks.test_ultralytics import write_set

    write_set(tmp_path)
    given = run(
        "ultralytics", "ultralytics", folder=str(tmp_path / "images"), hyp=cfg.get_cfg(),
        data={"names": {0: "thing"}, "channels": 3, "nc": 1},
    )  # fmt: skip
    for batch in given["loader"]:
        size = tuple(batch["img"].shape[2:])
        corners = [from_shares(batch["bboxes"][batch["batch_idx"] == i], size) for i in range(4)]
        check_masks(batch["masks"], corners, size, STRIDES)
