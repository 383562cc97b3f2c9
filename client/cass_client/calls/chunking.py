"""Cuts a batch that is beyond a server's limits into runs of images, and joins their answers."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence

import numpy as np

from cass.v1 import cass_pb2 as pb
from cass_client.arguments import Masks
from cass_client.parts import images_of
from cass_core.arrays import Array
from cass_core.grid import patch_grid
from cass_core.inputs import LossInputs, MaskInputs
from cass_core.results import HostLoss, divisor_of
from cass_core.work import ignored_inputs, most_work, work

# More than the numbers, names and specs of a message take.
_SPECS_BYTES = 1 << 10
_BOX_BYTES = 16
# Three varints of up to five bytes.
_IMAGE_BYTES = 15
# What weights are made from: a valid region and one varint more an image, a number a box.
_REGION_BYTES, _WEIGHT_BYTES = 16 + 5, 4


def split_masks(inputs: MaskInputs, limits: pb.Limits) -> list[MaskInputs]:
    """Requests that the server takes, of runs of images; one image at least.

    The whole where objects have equal shares, which depend on all images.
    """
    if _is_whole(inputs):
        return [inputs]
    runs = _runs(inputs.boxes.num_images, _masks_fit(inputs, limits))
    return [inputs] if len(runs) == 1 else [images_of(inputs, a, b) for a, b in runs]


def split_losses(inputs: LossInputs, limits: pb.Limits) -> list[LossInputs]:
    """Likewise; each takes its share of the whole batch's loss, so that they add up.

    The whole where it is divided by the sum of weights that are made from boxes.
    """
    spec = inputs.spec
    weighed = inputs.mask is not None and inputs.mask.weighting is not None
    if weighed and (spec.reduction == "mean" or _is_whole(inputs.mask)):
        return [inputs]
    divisor = divisor_of(inputs)
    if divisor < 1:  # a number of boxes cannot stand for it
        return [inputs]
    mask_fits = None if inputs.mask is None else _masks_fit(inputs.mask, limits)

    def fits(first: int, last: int) -> bool:
        size = _SPECS_BYTES + inputs.logits[first:last].nbytes
        if inputs.target is not None:
            size += inputs.target[first:last].nbytes
        if inputs.weights is not None:
            size += inputs.weights[first:last].nbytes
        if inputs.mask is None or mask_fits is None:
            return _within(size, limits.message_bytes)
        size += _message_bytes(inputs.mask, first, last)
        return _within(size, limits.message_bytes) and mask_fits(first, last)

    runs = _runs(len(inputs.logits), fits)
    if len(runs) == 1:
        return [inputs]
    if spec.reduction in ("mean", "per_object"):
        # The divisor of all images; the same numbers come out, bit by bit.
        inputs = dataclasses.replace(
            inputs, spec=spec.replace(reduction="per_object"), num_boxes=divisor
        )
    return [
        dataclasses.replace(
            inputs,
            logits=inputs.logits[first:last],
            target=None if inputs.target is None else inputs.target[first:last],
            weights=None if inputs.weights is None else inputs.weights[first:last],
            mask=None if inputs.mask is None else images_of(inputs.mask, first, last),
        )
        for first, last in runs
    ]


def join_masks(answers: Sequence[Masks]) -> Masks:
    """The masks, owner maps and weights of all images."""
    return tuple(map(_join, zip(*answers, strict=True)))


def join_losses(inputs: LossInputs, answers: Sequence[HostLoss]) -> HostLoss:
    """The loss of all images, given the requests of `split_losses` for ``inputs``."""
    total = sum(answer.total for answer in answers)
    normalizer = divisor_of(inputs)
    if inputs.spec.reduction == "none":
        loss = np.concatenate([answer.loss for answer in answers])
    else:
        loss = np.asarray(total / normalizer, answers[0].loss.dtype)
    grads = [answer.grad for answer in answers if answer.grad is not None]
    return HostLoss(loss, total, normalizer, np.concatenate(grads) if grads else None)


def _join(levels_of_runs: Sequence[list[Array]]) -> list[Array]:
    return [np.concatenate(runs) for runs in zip(*levels_of_runs, strict=True)]


def _runs(images: int, fits: Callable[[int, int], bool]) -> list[tuple[int, int]]:
    """Runs of images, halved until each fits or is one image."""
    runs, waiting = [], [(0, images)]
    while waiting:
        first, last = waiting.pop()
        if last - first <= 1 or fits(first, last):
            runs.append((first, last))
        else:
            middle = (first + last) // 2
            waiting += [(middle, last), (first, middle)]
    return runs


def _masks_fit(inputs: MaskInputs, limits: pb.Limits) -> Callable[[int, int], bool]:
    """Whether a request of the images from one to before another is within the limits."""
    grids = [patch_grid(feature_map, inputs.spec.patch_size) for feature_map in inputs.maps]
    patches = sum(rows * columns for rows, columns in grids)
    most = most_work(inputs)

    @functools.cache
    def work_before() -> Array:
        """The work of the boxes before each image, ignored ones included."""
        before = np.append(0.0, np.cumsum(work(inputs)))[inputs.boxes.offsets]
        ignored = ignored_inputs(inputs)
        if ignored is not None:
            before += np.append(0.0, np.cumsum(work(ignored)))[ignored.boxes.offsets]
        return before

    def fits(first: int, last: int) -> bool:
        boxes = _num_boxes(inputs, first, last)
        return (
            _within(last - first, limits.images)
            and _within(boxes, limits.boxes)
            and _within((last - first) * patches, limits.patches)
            and _within(_message_bytes(inputs, first, last), limits.message_bytes)
            and (
                _within(boxes * most, limits.work)
                or _within(work_before()[last] - work_before()[first], limits.work)
            )
        )

    return fits


def _is_whole(inputs: MaskInputs | None) -> bool:
    weighting = None if inputs is None else inputs.weighting
    return weighting is not None and weighting.spec.balance == "object"


def _within(value: float, limit: int) -> bool:
    """A limit of 0 is one that the server does not send."""
    return not limit or value <= limit


def _message_bytes(inputs: MaskInputs, first: int, last: int) -> int:
    """Bytes of the request's message, at most."""
    boxes = _num_boxes(inputs, first, last)
    size = _SPECS_BYTES + _IMAGE_BYTES * (last - first) + _BOX_BYTES * boxes
    if inputs.weighting is not None:
        size += _REGION_BYTES * (last - first) + _WEIGHT_BYTES * boxes
    return size


def _num_boxes(inputs: MaskInputs, first: int, last: int) -> int:
    """Ignored ones included."""
    weighting = inputs.weighting
    ignored = None if weighting is None else weighting.ignore
    batches = [inputs.boxes] if ignored is None else [inputs.boxes, ignored]
    return sum(int(boxes.offsets[last] - boxes.offsets[first]) for boxes in batches)
