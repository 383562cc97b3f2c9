"""Checked inputs in, host arrays out. The compiled loops are loaded by the first call."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from cass_core.arrays import Array, is_tensor, storage_dtype, to_host
from cass_core.boxes import BoxBatch
from cass_core.errors import InvalidRequest
from cass_core.inputs import LossInputs, MaskInputs
from cass_core.results import HostLoss
from cass_core.specs import normalizer_of


def compute_masks(
    inputs: MaskInputs, checkpoint: Callable[[], None] | None = None
) -> tuple[list[Array], list[Array], list[Array]]:
    """Masks, owner maps and weights (empty unless requested) of each feature map, on the CPU.

    In a long computation ``checkpoint`` is called between images; what it raises ends it.
    """
    shapes = inputs.shapes()
    dtype = storage_dtype(inputs.dtype)
    masks = [np.empty(shape, dtype) for shape in shapes]
    owners = [np.empty(shape, np.int32) for shape in shapes] if inputs.return_owner else []
    weights = [] if inputs.weighting is None else [np.empty(s, np.float32) for s in shapes]
    fill_masks(inputs, masks, owners, checkpoint, weights)
    return masks, owners, weights


def fill_masks(
    inputs: MaskInputs,
    masks: Sequence[Array],
    owners: Sequence[Array],
    checkpoint: Callable[[], None] | None = None,
    weights: Sequence[Array] = (),
) -> None:
    """As `compute_masks`, into arrays of the caller's."""
    from cass_core.cpu.run import fill_mask

    boxes, sizes = inputs.boxes, inputs.sizes
    if is_tensor(boxes.xyxy) and boxes.xyxy.device.type != "cpu":
        boxes = BoxBatch(boxes.xyxy.cpu(), boxes.counts)  # whose values are checked now
    if not isinstance(sizes, np.ndarray):
        sizes = to_host(sizes)[0]
    if weights:
        from cass_core.cpu.weighing import fill_weighted

        fill_weighted(inputs, boxes, sizes, (masks, owners, weights), checkpoint)
        return
    options = inputs.spec, inputs.dtype
    for i, feature_map in enumerate(inputs.maps):
        owner = owners[i] if inputs.return_owner else None
        fill_mask(boxes, sizes, feature_map, *options, masks[i], owner, checkpoint, level=i)


def compute_losses(inputs: LossInputs, checkpoint: Callable[[], None] | None = None) -> HostLoss:
    """Loss, sum, normaliser and gradient of checked inputs, on the CPU.

    Args:
        inputs: the request.
        checkpoint: called between the parts of a long computation; what it raises ends it.

    Raises:
        InvalidRequest: the target leaves [0, 1].
    """
    from cass_core.cpu.run import take_loss

    target, target_dtype, weights = inputs.target, inputs.target_dtype, inputs.weights
    if inputs.mask is not None:
        masks, _, weighed = compute_masks(inputs.mask, checkpoint)
        target, target_dtype = masks[0], inputs.mask.dtype
        weights = weighed[0] if weighed else None
        if inputs.mask.spec.merge == "sum":
            check_summed(float(target.max(initial=0)))
    assert target is not None  # by LossInputs.checked
    spec = inputs.spec
    normalizer = normalizer_of(spec, inputs.logits.size, inputs.num_boxes)
    if weights is not None and spec.reduction == "mean":
        normalizer = float(weights.sum(dtype=np.float64))
    real = np.float64 if inputs.logits_dtype == "float64" else np.float32
    shape, per_patch = inputs.logits.shape, spec.reduction == "none"
    loss = np.empty(shape if per_patch else (), real)
    grad = np.empty(shape, storage_dtype(inputs.logits_dtype)) if inputs.return_grad else None
    total, target_good = take_loss(
        inputs.logits,
        inputs.logits_dtype,
        target,
        target_dtype,
        spec,
        1.0 / normalizer if normalizer else 0.0,
        weights=None if weights is None else np.ascontiguousarray(weights),
        losses=loss if per_patch else None,
        grad=grad,
        checkpoint=checkpoint,
    )
    if not target_good:
        refuse_bad_target(target, target_dtype)
    if not per_patch:
        loss = np.asarray(total / normalizer if normalizer else 0.0, real)
    return HostLoss(loss, total, normalizer, grad)


def check_summed(largest: float) -> None:
    """Rejects a target made with ``merge="sum"`` by its largest value."""
    if largest > 1:
        raise InvalidRequest("mask_spec.merge", "sum gave a target above 1; use clipped_sum")


def refuse_bad_target(target: Array, target_dtype: str) -> None:
    """Name the first target value outside [0, 1], if there is one."""
    from cass_core.cpu.convert import widen

    values = widen(np.ascontiguousarray(target), target_dtype)
    good = (values >= 0) & (values <= 1)
    if good.all():
        return
    index = np.unravel_index(int(np.argmin(good)), values.shape)
    place = "".join(f"[{i}]" for i in index)
    raise InvalidRequest(f"target{place}", f"is not in [0, 1] ({values[index]})")
