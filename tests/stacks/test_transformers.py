"""Hugging Face's detectors in its Trainer, with masks in the batch and a loss on the tokens.

Random weights, drawn scenes; the processors are theirs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cass_client import CassClient
from cass_client.torch import MaskCollate
from cass_core import LossSpec, MaskLoss
from tests.stacks.support.scenes import STRIDES, annotations, check_masks, from_shares, scene

pytest.importorskip("transformers", reason="transformers is not installed: make stacks-test")

from transformers import (
    DetrConfig,
    DetrForObjectDetection,
    DetrImageProcessor,
    DFineConfig,
    DFineForObjectDetection,
    HGNetV2Config,
    ResNetConfig,
    RTDetrConfig,
    RTDetrForObjectDetection,
    RTDetrImageProcessor,
    RTDetrResNetConfig,
    RTDetrV2Config,
    RTDetrV2ForObjectDetection,
    Trainer,
    TrainingArguments,
)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

STEPS, BATCH, WIDTH = 20, 4, 32
SIZES = [(64, 96), (96, 64), (80, 96), (96, 96)]


def small(**more: Any) -> dict[str, Any]:
    """What the configurations of RT-DETR's family have in common."""
    return {
        "encoder_hidden_dim": WIDTH,
        "encoder_in_channels": [16, 16, 32],
        "encoder_ffn_dim": WIDTH,
        "encoder_attention_heads": 2,
        "d_model": WIDTH,
        "decoder_in_channels": [WIDTH] * 3,
        "decoder_layers": 2,
        "decoder_ffn_dim": WIDTH,
        "decoder_attention_heads": 2,
        "num_queries": 8,
        "num_denoising": 0,
        "num_labels": 8,
        **more,
    }


def resnet() -> Any:
    return RTDetrResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16, 16, 32], depths=[1] * 4, layer_type="basic",
        out_features=["stage2", "stage3", "stage4"],
    )  # fmt: skip


def rt_detr() -> Any:
    return RTDetrForObjectDetection(RTDetrConfig(**small(backbone_config=resnet())))


def rt_detr_v2() -> Any:
    return RTDetrV2ForObjectDetection(RTDetrV2Config(**small(backbone_config=resnet())))


def d_fine() -> Any:
    backbone = HGNetV2Config(
        stem_channels=[3, 8, 8], hidden_sizes=[8, 16, 16, 32], depths=[1] * 4,
        stage_in_channels=[8, 8, 16, 16],
        stage_mid_channels=[8, 8, 8, 8], stage_out_channels=[8, 16, 16, 32],
        stage_num_blocks=[1] * 4, stage_numb_of_layers=[1] * 4,
        out_features=["stage2", "stage3", "stage4"],
    )  # fmt: skip
    return DFineForObjectDetection(DFineConfig(**small(backbone_config=backbone)))


def detr() -> Any:
    backbone = ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16, 16, 32], depths=[1] * 4, layer_type="basic",
        out_features=["stage4"],
    )  # fmt: skip
    return DetrForObjectDetection(
        DetrConfig(
            use_timm_backbone=False, use_pretrained_backbone=False, backbone=None,
            backbone_config=backbone, d_model=WIDTH, encoder_layers=1, decoder_layers=1,
            encoder_ffn_dim=WIDTH, decoder_ffn_dim=WIDTH, encoder_attention_heads=2,
            decoder_attention_heads=2, num_queries=8, num_labels=8,
        )
    )  # fmt: skip


FIXED = {"height": 64, "width": 96}
MODELS: dict[str, Any] = {
    "RT-DETR": (rt_detr, RTDetrImageProcessor, {"size": FIXED}, STRIDES),
    "RT-DETRv2": (rt_detr_v2, RTDetrImageProcessor, {"size": FIXED}, STRIDES),
    "D-FINE": (d_fine, RTDetrImageProcessor, {"size": FIXED}, STRIDES),
    "DETR": (
        detr,
        DetrImageProcessor,
        {"size": {"shortest_edge": 64, "longest_edge": 96}, "pad_size": {"height": 96,
                                                                         "width": 96}},
        32,
    ),
}  # fmt: skip


def samples(processor: Any) -> list[Any]:
    """As the example's `transform_batch` makes them."""
    found = []
    for index in range(STEPS * BATCH // 2):
        size = SIZES[index % 4]
        entry = {"image_id": index, "annotations": annotations(index, size)}
        made = processor(images=scene(index, size).image, annotations=entry, return_tensors="pt")
        found.append({key: value[0] for key, value in made.items()})
    return found


def collate_fn(batch: Any) -> Any:
    """As in transformers' examples/pytorch/object-detection."""
    data = {
        "pixel_values": torch.stack([x["pixel_values"] for x in batch]),
        "labels": [x["labels"] for x in batch],
    }
    if "pixel_mask" in batch[0]:
        data["pixel_mask"] = torch.stack([x["pixel_mask"] for x in batch])
    return data


class CassTrainer(Trainer):
    """The only change: a loss of the tokens beside the model's own."""

    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **_: Any) -> Any:
        masks, weights = inputs.pop("masks"), inputs.pop("weights")
        outputs = model(**inputs)
        tokens = outputs.encoder_last_hidden_state
        logits = model.token_head(tokens) if isinstance(tokens, Tensor) else [
            model.token_head(level.flatten(2).transpose(1, 2)) for level in tokens
        ]  # fmt: skip
        value = MaskLoss(LossSpec(kind="bce"))(logits, masks, weights=weights)
        self.seen.append((value.item(), masks, weights, inputs))
        loss = outputs.loss + 10 * value
        return (loss, outputs) if return_outputs else loss

    @property
    def seen(self) -> list[Any]:
        found: list[Any] = self.__dict__.setdefault("batches", [])
        return found


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("after", [False, True])
def test_trainer(name: str, after: bool, tmp_path: Path) -> None:
    if after and name not in ("RT-DETR", "DETR"):
        pytest.skip("the same batches as RT-DETR's")
    make, processor, options, strides = MODELS[name]
    torch.manual_seed(0)
    model = make()
    model.token_head = nn.Linear(WIDTH, 1)
    trainer = CassTrainer(
        model,
        TrainingArguments(
            str(tmp_path), max_steps=STEPS, per_device_train_batch_size=BATCH,
            learning_rate=2e-2, lr_scheduler_type="constant", remove_unused_columns=False,
            report_to=[], use_cpu=True,
            save_strategy="no", logging_strategy="no", disable_tqdm=True,
        ),
        data_collator=MaskCollate(
            CassClient("local:"), strides=strides, collate_fn=collate_fn, after=after,
            return_weights=True,
        ),
        train_dataset=samples(processor(**options)),
    )  # fmt: skip
    trainer.train()
    values = [value for value, *_ in trainer.seen]
    assert len(values) == STEPS
    assert sum(values[-5:]) < 0.8 * sum(values[:5])
    for _, masks, weights, inputs in trainer.seen[::7]:
        size = inputs["pixel_values"].shape[2:]
        corners = [
            from_shares(label["boxes"], label["size"].tolist()) for label in inputs["labels"]
        ]
        check_masks(masks, corners, size, strides)
        if name == "DETR":
            assert inputs["pixel_mask"].min() == 0  # some are padded
            # By the pixel that a patch has its centre on.
            assert torch.equal(weights, inputs["pixel_mask"][:, 16::32, 16::32].float())
        else:
            assert all(level.min() == 1 for level in weights)
