"""One seeded training: epoch by epoch, resumable after each, the same either way."""

from __future__ import annotations

import io
import pickle
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cass_cli.files import whole_file
from cass_core.boxes import BoxBatch
from cass_core.nn import CassLoss
from cass_lab.data.dataset import Dataset
from cass_lab.training.detector import KEEP_RATIOS, Detector, detection_loss
from cass_lab.training.model import LevelPredictor, Predictor
from cass_lab.training.variants import Variant

# Weight of the CASS loss beside the detector's, as in the method.
_AUXILIARY_WEIGHT = 0.05
_WARM_UP = 0.25  # share of the steps
_WEIGHT_DECAY = 1e-4
_LARGEST_GRADIENT = 1.0


@dataclass(frozen=True, slots=True)
class Recipe:
    """How long and how fast to train.

    Attributes:
        epochs: passes over the training images.
        batch_size: images per step.
        learning_rate: the largest of the one-cycle schedule.
        device: ``cpu`` or ``cuda``.
    """

    epochs: int
    batch_size: int
    learning_rate: float
    device: str


def train(
    model: Predictor | LevelPredictor | Detector,
    variant: Variant,
    data: Dataset,
    recipe: Recipe,
    seed: int,
    checkpoint: Path,
    epoch_done: Callable[[], None] = lambda: None,
) -> float:
    """Train in place; go on after the last epoch that the checkpoint has.

    A predictor is trained by the variant's loss alone, a detector by its own loss with the
    variant's as an auxiliary.

    Args:
        model: as initialised from the seed.
        variant: the target and the loss.
        data: training images; flipped left to right half of the time.
        recipe: see `Recipe`.
        seed: of the order, the flips and what a detector keeps. On the CPU with one thread equal
            seeds give equal models.
        checkpoint: written after each epoch, read if it is there and whole.
        epoch_done: called after each epoch.

    Returns:
        Seconds spent, those before an interruption included.
    """
    model.to(recipe.device).train()
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=recipe.learning_rate, weight_decay=_WEIGHT_DECAY
    )
    first, spent = 0, 0.0
    if (saved := _load(checkpoint, recipe.device)) is not None:
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        first, spent = saved["epochs"], saved["seconds"]
        for _ in range(first):
            epoch_done()
    started = time.monotonic() - spent
    pixels = data.pixels()
    steps = -(-len(data) // recipe.batch_size)
    for epoch in range(first, recipe.epochs):
        # From the epoch's number, so that nothing random has to be kept in a checkpoint.
        rng = np.random.default_rng((seed, epoch))
        order = rng.permutation(len(data))
        for step, chosen in enumerate(np.array_split(order, steps)):
            progress = (epoch * steps + step) / (recipe.epochs * steps)
            for group in optimizer.param_groups:
                group["lr"] = recipe.learning_rate * one_cycle(progress)
            images, boxes, labels = _batch(data, pixels, chosen, rng.random(len(chosen)) < 0.5)
            images = images.to(recipe.device)
            if isinstance(model, Detector):
                keep = float(rng.choice(KEEP_RATIOS))
                output = model(images, keep)
                loss = detection_loss(output, boxes, labels, model.stride)
                loss = loss + _AUXILIARY_WEIGHT * _cass_loss(variant, [output.scores], boxes, data)
            else:
                loss = _cass_loss(variant, scores_of(model, images), boxes, data)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(model.parameters(), _LARGEST_GRADIENT)
            optimizer.step()
        state = {
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "epochs": epoch + 1,
            "seconds": time.monotonic() - started,
        }
        save(state, checkpoint)
        epoch_done()
    model.eval()
    return time.monotonic() - started


def scores_of(model: Predictor | LevelPredictor, images: Tensor) -> list[Tensor]:
    """The logits of each level, ``[B, h, w]``; images as `Predictor.forward` takes them."""
    scores: list[Tensor] = (
        model(images) if isinstance(model, LevelPredictor) else [model(images)[0]]
    )
    return scores


def one_cycle(progress: float) -> float:
    """Share of the largest learning rate: up in a quarter of the steps, then down to nothing.

    Example:
        >>> [round(one_cycle(p), 2) for p in (0.0, 0.25, 0.625, 1.0)]
        [0.04, 1.0, 0.5, 0.0]
    """
    if progress < _WARM_UP:
        return 0.04 + 0.96 * progress / _WARM_UP
    return float(0.5 + 0.5 * np.cos(np.pi * (progress - _WARM_UP) / (1 - _WARM_UP)))


def save(state: object, path: Path) -> None:
    """Write a file that is there whole or not at all."""
    # By way of memory: torch reports a full disk as an error of its own.
    buffer = io.BytesIO()
    torch.save(state, buffer)
    with whole_file(path) as file:
        file.write(buffer.getbuffer())


def _load(checkpoint: Path, device: str) -> dict[str, Any] | None:
    """What `save` has written; None if it is not there or a crash has torn it."""
    if not checkpoint.exists():
        return None
    try:
        saved: dict[str, Any] = torch.load(checkpoint, weights_only=True, map_location=device)
    except (EOFError, RuntimeError, pickle.UnpicklingError):
        return None
    return saved


def _cass_loss(variant: Variant, levels: list[Tensor], boxes: BoxBatch, data: Dataset) -> Tensor:
    grids = [(scores.shape[1], scores.shape[2]) for scores in levels]
    loss = CassLoss(variant.mask, variant.loss, variant.weights)
    value: Tensor = loss(levels, boxes, data.image_size, grids)
    return value


def _batch(
    data: Dataset,
    pixels: npt.NDArray[np.uint8],
    chosen: npt.NDArray[np.int64],
    flipped: npt.NDArray[np.bool_],
) -> tuple[Tensor, BoxBatch, npt.NDArray[np.int64]]:
    """Images ``[B, H, W, 3]``, their boxes and the boxes' labels."""
    images = np.empty((len(chosen), *pixels.shape[1:]), np.uint8)
    xyxy, labels, width = [], [], data.image_size[1]
    for i, (image, flip) in enumerate(zip(chosen, flipped, strict=True)):
        mine = slice(data.offsets[image], data.offsets[image + 1])
        images[i] = pixels[image][:, ::-1] if flip else pixels[image]
        boxes = data.xyxy[mine]
        if flip:
            boxes = np.stack(
                [width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]], axis=1
            )
        xyxy.append(boxes)
        labels.append(data.labels[mine])
    counts = np.array([len(boxes) for boxes in xyxy])
    return (
        torch.from_numpy(images),
        BoxBatch(np.concatenate(xyxy), counts),
        np.concatenate(labels),
    )
