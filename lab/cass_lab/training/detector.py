"""A compact anchor-free detector that sees the kept patches alone."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from cass_core.boxes import BoxBatch
from cass_core.grid import FeatureMap
from cass_lab.data.objects import patch_ranges
from cass_lab.measures.ap import Detections
from cass_lab.measures.keeping import num_kept
from cass_lab.training.model import CHANNELS, Predictor, SeparableBlock

KEEP_RATIOS = (0.3, 0.5, 1.0)
# Focal loss as in Lin et al. 2017 (RetinaNet), and its prior.
_FOCAL_ALPHA, _FOCAL_GAMMA, _PRIOR = 0.25, 2.0, 0.01
_BOX_WEIGHT = 2.0
# COCO looks at the best hundred of an image.
_CANDIDATES, _MOST = 300, 100
_SAME_OBJECT = 0.6  # intersection over union


class Output(NamedTuple):
    """What a detector says of a batch.

    Attributes:
        scores: ``[B, h, w]`` patch logits.
        kept: ``[B, h, w]`` which patches were kept.
        classes: ``[B, h, w, C]`` class logits; to be read where kept.
        sides: ``[B, h, w, 4]`` distances from the patch's centre to the box's left, top, right
            and lower side in cells; to be read where kept.
    """

    scores: Tensor
    kept: Tensor
    classes: Tensor
    sides: Tensor


class Detector(nn.Module):
    """The predictor's trunk, its scores, and a head on the patches with the largest of them.

    Args:
        stride: pixels of a patch's side.
        num_classes: number of classes.

    Example:
        >>> output = Detector(8, 2)(torch.zeros(1, 32, 48, 3, dtype=torch.uint8), keep=0.5)
        >>> output.kept.sum().item(), output.classes.shape
        (12, torch.Size([1, 4, 6, 2]))
    """

    def __init__(self, stride: int, num_classes: int) -> None:
        super().__init__()
        self.stride = stride
        self.predictor = Predictor(stride)
        self.blocks = nn.ModuleList(SeparableBlock(CHANNELS) for _ in range(2))
        self.classes = nn.Linear(CHANNELS, num_classes)
        self.sides = nn.Linear(CHANNELS, 4)
        nn.init.constant_(self.classes.bias, -math.log((1 - _PRIOR) / _PRIOR))

    def forward(self, images: Tensor, keep: float) -> Output:
        """Detect on the share ``keep`` of the patches.

        Args:
            images: ``[B, H, W, 3]`` uint8.
            keep: share of the patches, in (0, 1].
        """
        scores, features = self.predictor(images)
        kept = kept_patches(scores, keep)
        there = kept[:, None].to(features.dtype)
        x = features * there
        for block in self.blocks:
            # Dropped patches stay empty: the head knows nothing of what was there.
            x = block(x) * there
        x = x.permute(0, 2, 3, 1)
        return Output(scores, kept, self.classes(x), torch.exp(self.sides(x).clamp(-6, 6)))


def kept_patches(scores: Tensor, keep: float) -> Tensor:
    """Where the largest scores of each image are, ``[B, h, w]`` bool; the first of equals."""
    flat = scores.detach().flatten(1)
    order = torch.argsort(flat, dim=1, descending=True, stable=True)
    kept = torch.zeros_like(flat, dtype=torch.bool)
    kept.scatter_(1, order[:, : num_kept(flat.shape[1], keep)], True)
    return kept.view(scores.shape)


def detection_loss(
    output: Output, boxes: BoxBatch, labels: npt.NDArray[np.int64], stride: int
) -> Tensor:
    """Focal loss of the classes and generalised IoU loss of the boxes, on kept patches.

    A patch in several boxes belongs to the smallest.

    Args:
        output: of the detector.
        boxes: of the batch, in pixels.
        labels: class index of each box.
        stride: pixels of a patch's side.
    """
    height, width = output.kept.shape[1:]
    xyxy = np.asarray(boxes.xyxy)
    owner = torch.from_numpy(_owners(boxes, (height, width), stride))
    chosen = output.kept & (owner.to(output.kept.device) >= 0)
    mine = owner.to(chosen.device)[chosen]
    logits = output.classes[output.kept]
    target = torch.zeros_like(output.classes)
    target[chosen, torch.from_numpy(labels).to(chosen.device)[mine]] = 1.0
    target = target[output.kept]
    p = torch.sigmoid(logits)
    bce = nn.functional.binary_cross_entropy_with_logits(logits, target, reduction="none")
    alpha = _FOCAL_ALPHA * target + (1 - _FOCAL_ALPHA) * (1 - target)
    focal = (alpha * torch.abs(target - p) ** _FOCAL_GAMMA * bce).sum()
    cells = torch.from_numpy(xyxy / np.float32(stride)).to(chosen.device)[mine]
    predicted = corners(output.sides, height, width)[chosen]
    box = (1 - _generalised_iou(predicted, cells)).sum()
    return (focal + _BOX_WEIGHT * box) / max(1, int(chosen.sum()))


def corners(sides: Tensor, height: int, width: int) -> Tensor:
    """Distances from the centres ``[..., h, w, 4]`` to xyxy in cells."""
    y = torch.arange(height, device=sides.device)[:, None].expand(height, width) + 0.5
    x = torch.arange(width, device=sides.device)[None].expand(height, width) + 0.5
    left, top, right, low = sides.unbind(-1)
    return torch.stack([x - left, y - top, x + right, y + low], dim=-1)


def decode(output: Output, image: int, stride: int) -> Detections:
    """The detections of one image of a batch, at most a hundred, best first."""
    height, width = output.kept.shape[1:]
    kept = output.kept[image]
    scores, labels = torch.sigmoid(output.classes[image][kept]).max(-1)
    xyxy = corners(output.sides[image], height, width)[kept] * stride
    limit = torch.tensor([width, height, width, height], device=xyxy.device) * stride
    xyxy = torch.minimum(xyxy.clamp(min=0), limit)
    order = torch.argsort(scores, descending=True, stable=True)[:_CANDIDATES].cpu()
    found = Detections(
        xyxy.cpu()[order].numpy(), scores.cpu()[order].numpy(), labels.cpu()[order].numpy()
    )
    best = _not_suppressed(found)[:_MOST]
    return Detections(found.xyxy[best], found.scores[best], found.labels[best])


def _owners(boxes: BoxBatch, grid: FeatureMap, stride: int) -> npt.NDArray[np.int64]:
    """Index of the smallest box over each patch ``[B, h, w]``, counted through the batch, or -1."""
    owner = np.full((boxes.num_images, *grid), -1, np.int64)
    xyxy = np.asarray(boxes.xyxy, np.float64)
    ranges = patch_ranges(xyxy, (grid[0] * stride, grid[1] * stride), grid)
    area = (xyxy[:, 2] - xyxy[:, 0]) * (xyxy[:, 3] - xyxy[:, 1])
    image = np.repeat(np.arange(boxes.num_images), np.asarray(boxes.counts))
    for i in np.argsort(-area, kind="stable"):
        r0, r1, c0, c1 = ranges[i]
        owner[image[i], r0:r1, c0:c1] = i
    return owner


def _generalised_iou(a: Tensor, b: Tensor) -> Tensor:
    """Rezatofighi et al. 2019, pair by pair, ``[K, 4]`` xyxy."""
    overlap = (torch.minimum(a[:, 2:], b[:, 2:]) - torch.maximum(a[:, :2], b[:, :2])).clamp(min=0)
    hull = torch.maximum(a[:, 2:], b[:, 2:]) - torch.minimum(a[:, :2], b[:, :2])
    inter = overlap.prod(1)
    union = (a[:, 2:] - a[:, :2]).prod(1) + (b[:, 2:] - b[:, :2]).prod(1) - inter
    tiny = torch.finfo(a.dtype).tiny
    enclosing = hull.prod(1).clamp(min=tiny)
    return inter / union.clamp(min=tiny) - (enclosing - union) / enclosing


def _not_suppressed(found: Detections) -> npt.NDArray[np.int64]:
    """Greedy non-maximum suppression within each class; positions, best first."""
    xyxy = found.xyxy.astype(np.float64)
    low = np.maximum(xyxy[:, None, :2], xyxy[None, :, :2])
    high = np.minimum(xyxy[:, None, 2:], xyxy[None, :, 2:])
    inter = np.clip(high - low, 0, None).prod(2)
    area = (xyxy[:, 2:] - xyxy[:, :2]).prod(1)
    # a / b > t as a > t b: boxes may be empty.
    same = (inter > _SAME_OBJECT * (area[:, None] + area[None] - inter)) & (
        found.labels[:, None] == found.labels[None]
    )
    alive = np.ones(len(xyxy), np.bool_)
    for i in range(len(xyxy)):
        if alive[i]:
            alive[i + 1 :] &= ~same[i, i + 1 :]
    return np.flatnonzero(alive)
