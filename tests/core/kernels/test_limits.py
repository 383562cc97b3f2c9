"""What is too large for the GPU's kernels is refused before anything is launched."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from cass_core import BoxBatch, CassLoss, InvalidRequest, MaskSpec, generate_mask
from cass_core.ops.launch import MaskArguments
from cass_core.ops.spec_args import mask_options
from tests.core.support.paths import interpreted
from tests.support.interpreted import kernels

LARGEST = 2**31 - 1
BOX = [[[1.0, 1.0, 5.0, 5.0]]]


@pytest.mark.parametrize(
    ("cells", "patch", "reason"),
    [
        ((LARGEST, 1), 1, "too many of a side"),
        ((1, LARGEST), 1, "too many of a side"),
        ((2**16 + 1, 2**16), 1, "at most 2\\^31 an image"),
    ],
)
def test_refused_for_every_kernel(cells: tuple[int, int], patch: int, reason: str) -> None:
    spec = MaskSpec(patch_size=patch)
    options: Any
    for options in ({}, {"return_weights": True}):
        with pytest.raises(InvalidRequest, match=rf"^feature_map: .*{reason}"):
            interpreted(BOX, (8, 8), cells, spec, **options)
    boxes = torch.tensor(BOX[0]), torch.tensor([0, 1], dtype=torch.int32), None, [8, 8]
    mask = MaskArguments(*boxes, [*cells], *mask_options(spec), torch.float32, False)
    with pytest.raises(InvalidRequest, match=rf"^feature_map: .*{reason}"):
        mask.levels()


def test_the_loss_refuses_too() -> None:
    # One number that is as many.
    logits = torch.zeros(()).expand(1, LARGEST, 1).requires_grad_()
    loss = CassLoss(MaskSpec(patch_size=1))
    refused = pytest.raises(InvalidRequest, match=r"^feature_map: .*too many of a side")
    with kernels(), refused:
        loss(logits, BoxBatch.from_list(BOX).to("cpu"), (8, 8), (LARGEST, 1))


def test_more_tiles_than_a_launch_has() -> None:
    count = 2**19
    offsets = torch.zeros(count + 1, dtype=torch.int32)
    given: Any = (torch.zeros(0, 4), offsets, None, [8, 8], [1024, 2048])
    mask = MaskArguments(*given, *mask_options(MaskSpec(patch_size=1)), torch.uint8, False)
    with pytest.raises(InvalidRequest, match=r"^boxes: of 524288 images are more"):
        mask.levels()


def test_just_not_too_large_is_the_same_as_on_the_host() -> None:
    """A long side in one patch, which has the box."""
    spec = MaskSpec(patch_size=2**30)
    mask = interpreted(BOX, (8, 8), (2**30, 1), spec)
    assert mask.tolist() == generate_mask(BOX, (8, 8), (2**30, 1), spec).tolist()


def test_the_longest_side_in_two_patches() -> None:
    """The first has the box, the second some of its context."""
    spec = MaskSpec(patch_size=2**30 + 7)
    mask = interpreted(BOX, (8, 8), (LARGEST, 1), spec)
    expected = generate_mask(BOX, (8, 8), (LARGEST, 1), spec)
    np.testing.assert_allclose(mask, expected, rtol=0, atol=1e-6)
