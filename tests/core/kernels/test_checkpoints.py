"""Long computations in parts: the same masks and losses, and an end between two parts."""

from __future__ import annotations

import numpy as np
import pytest

from cass_core import LossSpec, MaskSpec, generate_mask
from cass_core.cpu.backend import compute_losses, compute_masks
from cass_core.inputs import LossInputs, MaskInputs
from cass_core.synthetic import street_boxes

SIZE, MAP, IMAGES = (736, 1280), (92, 160), 24
# 14,720 patches an image times these: a part has five or six images.
BOXES = 200


class Stop(Exception):
    """Ends a computation."""


class Checkpoint:
    """Counts how often it is called, and ends the computation at the last of so many times."""

    def __init__(self, last: int = 1 << 30) -> None:
        self.calls = 0
        self._last = last

    def __call__(self) -> None:
        """One more time."""
        self.calls += 1
        if self.calls >= self._last:
            raise Stop


def inputs_of(dtype: str, owner: bool) -> MaskInputs:
    boxes = street_boxes(IMAGES, BOXES, image_size=SIZE)
    return MaskInputs.check(boxes, SIZE, MAP, MaskSpec(patch_size=1), dtype, owner)


@pytest.mark.parametrize("threads", ["1", "2"])
@pytest.mark.parametrize("owner", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float16", "uint8"])
def test_masks_in_parts(
    dtype: str, owner: bool, threads: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are those of each image alone."""
    monkeypatch.setenv("OMP_NUM_THREADS", threads)
    checkpoint = Checkpoint()
    (masks,), owners, _ = compute_masks(inputs_of(dtype, owner), checkpoint)
    assert checkpoint.calls > 1
    spec = MaskSpec(patch_size=1)
    for image, boxes in enumerate(street_boxes(IMAGES, BOXES, image_size=SIZE)):
        alone = generate_mask([boxes], SIZE, MAP, spec, dtype=dtype, return_owner=owner)
        mask, owned = alone if owner else (alone, None)
        np.testing.assert_array_equal(masks[image], mask[0])
        if owned is not None:
            np.testing.assert_array_equal(owners[0][image], owned[0])


OPTIONS: list[tuple[MaskSpec, str, bool]] = [
    (MaskSpec(patch_size=1), "float32", True),
    (MaskSpec(patch_size=1), "uint8", False),
    (MaskSpec(patch_size=1, merge="sum"), "float32", False),
    (MaskSpec(patch_size=1, merge="clipped_sum"), "float16", False),
    (MaskSpec(patch_size=1, decay_type="linear", use_anisotropic_gaussian=False), "float32", True),
]


@pytest.mark.parametrize(("spec", "dtype", "owner"), OPTIONS)
@pytest.mark.parametrize("batch", [[5000], [0, 3000, 0, 2, 1500, 0], [3000, 1139, 1, 1139, 1]])
def test_boxes_of_one_image_in_parts(
    batch: list[int], spec: MaskSpec, dtype: str, owner: bool
) -> None:
    """A part has 1,139 boxes, as 14,720 patches times these are 2^24. The bits are the same."""
    boxes = [street_boxes(1, count, image_size=SIZE, seed=count)[0] for count in batch]
    inputs = MaskInputs.check(boxes, SIZE, MAP, spec, dtype, owner)
    checkpoint = Checkpoint()
    masks, owners, _ = compute_masks(inputs, checkpoint)
    assert checkpoint.calls >= sum(-(-count // 1139) for count in batch if count > 1139)
    whole_masks, whole_owners, _ = compute_masks(inputs)
    np.testing.assert_array_equal(masks[0], whole_masks[0])
    if owner:
        np.testing.assert_array_equal(owners[0], whole_owners[0])
        assert owners[0].max() > 1139


def test_one_image_ends_between_its_boxes() -> None:
    boxes = street_boxes(1, 3000, image_size=SIZE)
    inputs = MaskInputs.check(boxes, SIZE, MAP, MaskSpec(patch_size=1), "float32", False)
    for last in (1, 2, 3):
        checkpoint = Checkpoint(last)
        with pytest.raises(Stop):
            compute_masks(inputs, checkpoint)
        assert checkpoint.calls == last


def test_masks_end_between_parts() -> None:
    checkpoint = Checkpoint(last=2)
    with pytest.raises(Stop):
        compute_masks(inputs_of("float32", False), checkpoint)


def test_losses_end_between_parts() -> None:
    logits = np.zeros((40, *MAP), np.float32)
    inputs = LossInputs.check(logits, np.zeros_like(logits), LossSpec(), None, True, None)
    checkpoint = Checkpoint(last=3)
    with pytest.raises(Stop):
        compute_losses(inputs, checkpoint)
    whole = Checkpoint()
    assert compute_losses(inputs, whole).total == compute_losses(inputs).total
    # A block has 65,536 patches.
    assert whole.calls == -(-logits.size // 65536)
