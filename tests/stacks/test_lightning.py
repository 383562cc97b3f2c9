"""A Lightning module and data module, with two workers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from cass_client import CassClient
from cass_client.torch import MaskCollate
from cass_core import LossSpec, MaskLoss
from tests.stacks.support.scenes import SIZE, STRIDES, check_masks, sample

pytest.importorskip("lightning", reason="lightning is not installed: make stacks-test")

import lightning

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


class Scenes(lightning.LightningDataModule):
    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(
            [sample(i) for i in range(16)],
            4,
            num_workers=2,
            multiprocessing_context="fork",
            persistent_workers=True,
            collate_fn=MaskCollate(CassClient("local:"), strides=STRIDES, into="targets"),
        )


class Scorer(lightning.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.levels = nn.ModuleList(nn.Conv2d(3, 1, stride, stride) for stride in STRIDES)
        self.loss = MaskLoss(LossSpec(kind="bce"))
        self.values: list[float] = []

    def training_step(self, batch: Any, _: int) -> Any:
        images, targets = batch
        masks = [torch.stack([t[f"masks_{i}"] for t in targets]) for i in range(len(STRIDES))]
        check_masks(masks, [t["boxes"] for t in targets], SIZE)
        value = self.loss([level(images.float() / 255) for level in self.levels], masks)
        self.values.append(value.item())
        return value

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), 0.02)


def test_fit(tmp_path: Path) -> None:
    torch.manual_seed(0)
    scorer = Scorer()
    trainer = lightning.Trainer(
        max_epochs=4, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=tmp_path,
    )  # fmt: skip
    trainer.fit(scorer, Scenes())
    assert len(scorer.values) == 16
    assert sum(scorer.values[-4:]) < 0.8 * sum(scorer.values[:4])
