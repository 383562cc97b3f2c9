"""Hugging Face's RT-DETR in its Trainer: the loader adds masks, a head learns which tokens count.

    python examples/hf_rtdetr.py --server localhost:50051

The detector has random weights; processor and collate function are as in transformers' example.
Prints how many objects keep a token, draws an image. Needs transformers, accelerate, torchvision.
"""

import json
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import transformers as hf
import typer
from PIL import Image

from cass_client import CassClient, WeightSpec, xyxy_boxes
from cass_client.torch import MaskCollate
from cass_core import MaskLoss, generate_mask
from cass_core.plotting.predictions import plot_kept
from cass_core.synthetic import street_scene

SIZE, STRIDES, IMAGES, STEP, KEEP = (192, 320), (8, 16, 32), 64, 12, (0.1, 0.3, 0.5)
LEVELS = [(-(-SIZE[0] // stride), -(-SIZE[1] // stride)) for stride in STRIDES]


def scenes(data: Path | None) -> list[tuple[Any, Any]]:
    """Images and boxes (x, y, width, height) of a COCO set or of drawn streets."""
    if data is None:
        drawn = [street_scene(i, image_size=SIZE, boxes=8) for i in range(IMAGES)]
        return [(s.image, s.boxes - np.tile(s.boxes[:, :2], 2) * [0, 0, 1, 1]) for s in drawn]
    content = json.loads((data / "train.json").read_text(encoding="utf-8"))
    pairs = [(np.array(Image.open(data / "images" / entry["file_name"])),
              [row["bbox"] for row in content["annotations"] if row["image_id"] == entry["id"]])
             for entry in content["images"][::STEP]]  # fmt: skip
    return [pair for pair in pairs if pair[1]][:IMAGES]


def processed(i: int, image: Any, boxes: Any) -> dict[str, Any]:
    """A sample as the detector's processor makes it of COCO annotations."""
    rows = [{"bbox": b, "category_id": 0, "area": b[2] * b[3], "iscrowd": 0} for b in boxes]
    processor = hf.RTDetrImageProcessor(size={"height": SIZE[0], "width": SIZE[1]})
    made = processor(image, annotations={"image_id": i, "annotations": rows}, return_tensors="pt")
    return {key: value[0] for key, value in made.items()}


def collate_fn(batch: Any) -> dict[str, Any]:
    """As in transformers' example."""
    return {"pixel_values": torch.stack([s["pixel_values"] for s in batch]),
            "labels": [s["labels"] for s in batch]}  # fmt: skip


def detector() -> Any:
    """RT-DETR with a head that scores the tokens of its encoder."""
    backbone = hf.RTDetrResNetConfig(embedding_size=16, hidden_sizes=[16, 32, 48, 64],
        depths=[1] * 4, out_features=["stage2", "stage3", "stage4"])  # fmt: skip
    model: Any = hf.RTDetrForObjectDetection(hf.RTDetrConfig(
        backbone_config=backbone, encoder_in_channels=[32, 48, 64], encoder_hidden_dim=64,
        encoder_ffn_dim=64, d_model=64, decoder_in_channels=[64] * 3, decoder_ffn_dim=64,
        decoder_layers=2, num_queries=30, num_denoising=0, num_labels=1))  # fmt: skip
    model.token_head = torch.nn.Conv2d(64, 1, 1)
    return model


class CassTrainer(hf.Trainer):  # type: ignore[misc]
    """All that is added to a training."""

    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **_: Any) -> Any:
        """The detector's, and that of the token scores against the masks."""
        masks, weights = inputs.pop("masks"), inputs.pop("weights")
        outputs = model(**inputs)
        scores = [model.token_head(level) for level in outputs.encoder_last_hidden_state]
        loss = outputs.loss + 20 * MaskLoss()(scores, masks, weights=weights)
        return (loss, outputs) if return_outputs else loss


def recall(model: Any, image: Any, sample: Any, out: Path | None) -> Any:
    """Whether each object has a token among those that are kept, ``[N, len(KEEP)]``."""
    levels = model.eval()(sample["pixel_values"][None]).encoder_last_hidden_state
    scores = np.hstack([model.token_head(level).detach().numpy().ravel() for level in levels])
    kept = scores >= np.sort(scores)[[-round(keep * len(scores)) for keep in KEEP]][:, None]
    shares = sample["labels"]["boxes"].numpy()
    boxes = xyxy_boxes(shares, "cxcywh", normalized=True, image_size=SIZE)
    # The tokens of an object are those where its own mask is 1.
    own = [m.reshape(len(boxes), -1) for m in generate_mask(boxes[:, None], SIZE, LEVELS)]
    found = (np.hstack(own) == 1).astype(int) @ kept.T > 0
    if out is not None:
        grid = kept[1, : LEVELS[0][0] * LEVELS[0][1]].reshape(LEVELS[0])
        shown = np.array(Image.fromarray(image).resize(SIZE[::-1]))
        plot_kept(shown, boxes, {"30 % of all tokens": (grid, ~found[:, 1])}).savefig(out, dpi=120)
    return found


def main(
    server: Annotated[str, typer.Option(help="HOST:PORT, or local: for this process.")] = "local:",
    data: Annotated[Path | None, typer.Option(help="A folder: train.json, images/.")] = None,
    steps: int = 100,
    out: Path = Path("tokens.png"),
) -> None:
    """Train on three quarters of the images, look at the rest."""
    torch.manual_seed(0)
    pairs = scenes(data)
    samples, tested = [processed(i, *pair) for i, pair in enumerate(pairs)], len(pairs) // 4
    arguments = hf.TrainingArguments(
        str(out.parent), max_steps=steps, per_device_train_batch_size=8, learning_rate=2e-3,
        dataloader_num_workers=2, remove_unused_columns=False, save_strategy="no", report_to=[],
        logging_steps=25, disable_tqdm=True, use_cpu=True)  # fmt: skip
    options: Any = {"collate_fn": collate_fn, "weight_spec": WeightSpec.recommended()}
    collate = MaskCollate(CassClient(server), strides=STRIDES, **options)
    model = detector()
    CassTrainer(model, arguments, data_collator=collate, train_dataset=samples[tested:]).train()
    found = [recall(model, pairs[i][0], samples[i], None if i else out) for i in range(tested)]
    for keep, share in zip(KEEP, np.vstack(found).mean(axis=0), strict=True):
        print(f"{keep:.0%} of the tokens kept: {share:.1%} of the objects have one")


if __name__ == "__main__":
    typer.run(main)
