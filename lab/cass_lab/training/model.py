"""The patch-importance predictor: a small convolutional network that a CPU trains in seconds."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor, nn

from cass_core.errors import InvalidRequest

STRIDES = (4, 8, 16, 32)
CHANNELS = 48
_STEM = 32
# Share of patches that the untrained predictor calls important; as focal losses want it, and the
# same for every loss under test.
_PRIOR = 0.05


class Predictor(nn.Module):
    """Images to one logit a patch.

    Pixels are cut into 4 × 4 pieces, which are joined two by two up to the stride, as in a vision
    transformer's stem: matrix products, the cheapest thing a CPU can do. Then separable blocks at
    the stride and, for context, at twice the stride.

    Args:
        stride: pixels of a patch's side: 4, 8, 16 or 32.

    Example:
        >>> scores, features = Predictor(8)(torch.zeros(2, 32, 48, 3, dtype=torch.uint8))
        >>> scores.shape, features.shape
        (torch.Size([2, 4, 6]), torch.Size([2, 48, 4, 6]))
    """

    def __init__(self, stride: int) -> None:
        super().__init__()
        if stride not in STRIDES:
            raise InvalidRequest("--stride", f"must be one of {STRIDES}, got {stride}")
        joins = int(math.log2(stride // 4))
        widths = [_STEM if joins else CHANNELS] + [CHANNELS] * joins
        self.stride = stride
        self.pixels = nn.Linear(4 * 4 * 3, widths[0])
        self.joins = nn.ModuleList(
            nn.Linear(4 * before, after) for before, after in pairwise(widths)
        )
        self.fine = nn.Sequential(SeparableBlock(CHANNELS), SeparableBlock(CHANNELS))
        self.coarse = nn.Sequential(*(SeparableBlock(CHANNELS) for _ in range(3)))
        self.last = SeparableBlock(CHANNELS)
        self.score = _score()

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Logits and features.

        Args:
            images: ``[B, H, W, 3]`` uint8, sides multiples of the stride.

        Returns:
            Logits ``[B, H / stride, W / stride]`` and the features ``[B, C, h, w]`` under them.
        """
        x = _tiles(images, 4).float().sub_(127.5).div_(64.0)
        x = torch.relu(self.pixels(x))
        for join in self.joins:
            x = torch.relu(join(_tiles(x, 2)))
        x = x.permute(0, 3, 1, 2)  # channels last in memory
        x = self.fine(x)
        wide = nn.functional.avg_pool2d(x, 2, ceil_mode=True)
        wide = nn.functional.interpolate(self.coarse(wide), scale_factor=2.0, mode="nearest")
        x = self.last(x + wide[:, :, : x.shape[2], : x.shape[3]])
        return self.score(x.permute(0, 2, 3, 1))[..., 0], x


class LevelPredictor(nn.Module):
    """A predictor that scores coarser feature maps beside its own, as encoders have them.

    Args:
        stride: pixels of a patch's side on the finest level.
        levels: feature maps, each half as large as the one before.

    Example:
        >>> levels = LevelPredictor(8, 3)(torch.zeros(2, 32, 48, 3, dtype=torch.uint8))
        >>> [tuple(level.shape) for level in levels]
        [(2, 4, 6), (2, 2, 3), (2, 1, 2)]
    """

    def __init__(self, stride: int, levels: int) -> None:
        super().__init__()
        self.stride = stride
        self.finest = Predictor(stride)
        self.coarser = nn.ModuleList(SeparableBlock(CHANNELS) for _ in range(levels - 1))
        self.scores = nn.ModuleList(_score() for _ in range(levels - 1))

    def forward(self, images: Tensor) -> list[Tensor]:
        """The logits of each level, ``[B, h, w]``, the finest first; images as `Predictor`'s."""
        scores, x = self.finest(images)
        levels = [scores]
        for block, score in zip(self.coarser, self.scores, strict=True):
            height, width = x.shape[2:]
            # Of an odd side too the cells are equal parts of the picture, as the target's are.
            x = nn.functional.adaptive_avg_pool2d(x, (-(-height // 2), -(-width // 2)))
            x = block(x)
            levels.append(score(x.permute(0, 2, 3, 1))[..., 0])
        return levels


class SeparableBlock(nn.Module):
    """A residual block: depthwise 3 × 3, then 1 × 1.

    It normalises within an image, so that it does the same in training and afterwards.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.across = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)
        self.norm = nn.GroupNorm(4, channels)
        # 1 × 1: torch has no fast convolution of that size for the CPU, but a matrix product.
        self.mix = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C, h, w]``, channels last in memory, to the same shape."""
        mixed = self.mix(self.norm(self.across(x)).permute(0, 2, 3, 1))
        return x + torch.relu(mixed).permute(0, 3, 1, 2)


def _score() -> nn.Linear:
    """A head that calls the same share of the patches important, whatever it sees."""
    score = nn.Linear(CHANNELS, 1)
    nn.init.zeros_(score.weight)
    nn.init.constant_(score.bias, math.log(_PRIOR / (1 - _PRIOR)))
    return score


def _tiles(x: Tensor, side: int) -> Tensor:
    """``[B, H, W, C]`` to ``[B, H / side, W / side, side * side * C]``."""
    images, height, width, channels = x.shape
    x = x.view(images, height // side, side, width // side, side, channels)
    return x.permute(0, 1, 3, 2, 4, 5).reshape(images, height // side, width // side, -1)
