"""Runs the CPU kernels on whole requests: NumPy arrays in, NumPy arrays out."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from cass_core.arrays import Array, read_only, storage_dtype
from cass_core.boxes import BoxBatch
from cass_core.cpu import convert, threads
from cass_core.cpu.boxes import boxes_of_message  # boxes are checked there from now on
from cass_core.cpu.coverage import counter
from cass_core.cpu.loss_weights import clamp_logits, settle
from cass_core.cpu.losses import loss_and_gradient
from cass_core.cpu.masks import mask_images
from cass_core.cpu.small import SHORT_WORK, THREAD_PATCHES, SmallFill
from cass_core.grid import FeatureMap, Sizes
from cass_core.inputs import MaskInputs
from cass_core.specs import LossSpec, MaskSpec
from cass_core.specs.enums import KINDS, MERGES, TEMPERATURES

_NO_WEIGHTS = read_only(np.empty(0, np.float32))
# More than an image has; the sum of two fits into 64 bits.
_ALL_BOXES = 1 << 60
_NO_OWNER = np.empty((0, 0, 0), np.int32)
# Patches of float32 scratch that the second-level cache holds beside the output.
_SCRATCH_PATCHES = 1 << 16
# One block of the loss kernel's own.
_LOSS_SCRATCH = 1024
# Patches of a loss that are summed together, whatever the number of threads.
_LOSS_BLOCK = 1 << 16
_THREAD_BLOCKS = 2

Weigh = Callable[[int, Array, Array], None]


def fill_mask(
    boxes: BoxBatch,
    sizes: Sizes,
    feature_map: FeatureMap,
    spec: MaskSpec,
    dtype: str,
    mask: Array,
    owner: Array | None,
    checkpoint: Callable[[], None] | None = None,
    level: int = 0,
    weigh: Weigh | None = None,
) -> None:
    """Compute the mask ``[B, n_y, n_x]`` and, if requested, the owner map of a checked request.

    ``boxes`` must lie in the host's memory. A bfloat16 mask comes as its uint16 bits. In a long
    computation ``checkpoint`` is called between images and between boxes of one; what it raises
    ends the computation. ``level`` is the feature map's place among those of ``spec.level_ranges``.
    ``weigh`` is called with the first of some images, their float32 masks and their owners.
    """
    images, rows, columns = mask.shape
    if owner is None:
        owner = _NO_OWNER
    xyxy = read_only(np.asarray(boxes.xyxy))
    offsets, sizes = read_only(boxes.offsets), read_only(sizes)
    options = mask_options(spec, feature_map, level)
    patches = rows * columns
    # Patches that boxes reach, at most, an image of the average number of boxes at a time.
    work_per_image = patches * max(1, len(xyxy) // max(1, images))
    direct = dtype == "float32"
    if direct and images * work_per_image < SHORT_WORK and images < 2 * images_per_thread(patches):
        # The common case: one pass in this thread, without what the others need around it.
        mask_images(xyxy, offsets, sizes, 0, mask, owner, options, 0, _ALL_BOXES)
        if weigh is not None:
            weigh(0, mask, owner)
        return
    step = images if direct and weigh is None else max(1, _SCRATCH_PATCHES // patches)
    most_boxes = _ALL_BOXES
    if checkpoint is not None:
        most_boxes = max(1, SHORT_WORK // patches)
        step = min(step, most_boxes)

    def work(start: int, stop: int) -> None:
        part = 0 if direct else min(step, stop - start)
        scratch = np.empty((part, rows, columns), np.float32)
        first = start
        while first < stop:
            # As many images as have no more boxes together, or a part of one image's boxes.
            last = int(np.searchsorted(offsets, offsets[first] + most_boxes, "right")) - 1
            last = max(first + 1, min(last, first + step, stop))
            out = mask[first:last] if direct else scratch[: last - first]
            boxes_of_all = int(offsets[last] - offsets[first])
            for begin in range(0, max(1, boxes_of_all), most_boxes):
                if checkpoint is not None:
                    checkpoint()
                end = begin + most_boxes
                named = owner[first:last]
                mask_images(xyxy, offsets, sizes, first, out, named, options, begin, end)
            if weigh is not None:
                weigh(first, out, owner[first:last])
            if not direct:
                convert.narrow_into(out, mask[first:last], dtype)
            first = last

    threads.split(images, work, images_per_thread(patches))


def small_fill(inputs: MaskInputs) -> SmallFill | None:
    """`fill_mask` for other boxes than these, with all else as here; None if it is not small."""
    patches = sum(images * rows * columns for images, rows, columns in inputs.shapes())
    if inputs.dtype != "float32" or inputs.return_owner or not 0 < patches < THREAD_PATCHES:
        return None
    sizes = read_only(np.asarray(inputs.sizes))
    options = [mask_options(inputs.spec, size, i) for i, size in enumerate(inputs.maps)]

    def fill(xyxy: Array, offsets: Array, masks: Sequence[Array]) -> None:
        for mask, of_map in zip(masks, options, strict=True):
            mask_images(xyxy, offsets, sizes, 0, mask, _NO_OWNER, of_map, 0, _ALL_BOXES)

    return SmallFill(inputs.boxes.num_images * SHORT_WORK // patches, fill)


def images_per_thread(patches: int) -> int:
    """Images of so many patches that are worth a thread of their own."""
    return -(-THREAD_PATCHES // patches)


@lru_cache(maxsize=256)
def mask_options(spec: MaskSpec, feature_map: FeatureMap, level: int) -> tuple[Any, ...]:
    """The last argument of `mask_images`."""
    over, longest = spec.range_of(level)
    height, width = feature_map
    sigma_x, sigma_y = spec.sigma_xy
    return (
        height,
        width,
        min(spec.patch_size, height),
        min(spec.patch_size, width),
        spec.expansion_ratio,
        spec.min_size,
        spec.use_anisotropic_gaussian,
        spec.decay_type == "gaussian",
        sigma_x,
        sigma_y,
        (
            TEMPERATURES[spec.temperature],
            spec.small_target_gain,
            spec.small_target_threshold,
            spec.size_reference,
            spec.size_factor_min,
            spec.size_factor_max,
        ),
        spec.use_subpixel_offset,
        MERGES[spec.merge],
        spec.min_radius,
        over,
        longest,
    )


def take_loss(
    logits: Array,
    logits_dtype: str,
    target: Array,
    target_dtype: str,
    spec: LossSpec,
    scale: float,
    *,
    weights: Array | None = None,
    losses: Array | None = None,
    grad: Array | None = None,
    checkpoint: Callable[[], None] | None = None,
) -> tuple[float, bool]:
    """Sum of the losses, times their weights if given, and whether the target lies in [0, 1].

    If given, ``losses`` is filled with the loss of each patch (float32, or float64 for float64
    logits) and ``grad`` with the gradient, times ``scale``, in the logits' dtype; both are
    contiguous and of the logits' shape. ``checkpoint`` is called between blocks; what it raises
    ends the computation.
    """
    s = convert.widen(np.ascontiguousarray(logits), logits_dtype)
    y = convert.widen(np.ascontiguousarray(target), target_dtype).astype(s.dtype, copy=False)
    flat_s, flat_y = read_only(s.reshape(-1)), read_only(y.reshape(-1))
    flat_losses = None if losses is None else losses.reshape(-1)
    flat_grad = np.empty(0, s.dtype) if grad is None else grad.reshape(-1)
    # Half-precision gradients are rounded block by block, from scratch.
    direct = flat_grad.dtype == s.dtype
    flat_weights = _NO_WEIGHTS if weights is None else read_only(weights.reshape(-1))
    bound = math.inf if spec.logit_clamp is None else spec.logit_clamp
    is_plain = weights is None and spec.logit_clamp is None
    blocks = -(-s.size // _LOSS_BLOCK)
    totals = np.zeros(blocks)
    good = np.ones(blocks, np.bool_)

    def work(start: int, stop: int) -> None:
        for block in range(start, stop):
            if checkpoint is not None:
                checkpoint()
            part = slice(block * _LOSS_BLOCK, min((block + 1) * _LOSS_BLOCK, s.size))
            out = flat_grad[part] if direct else np.empty(part.stop - part.start, s.dtype)
            given = flat_s[part]
            if spec.logit_clamp is not None:
                given = np.empty_like(given)
                clamp_logits(flat_s[part], bound, given)
                given = read_only(given)
            if flat_losses is None:
                out_losses = np.empty(_LOSS_SCRATCH if is_plain else len(given), s.dtype)
            else:
                out_losses = flat_losses[part]
            totals[block], good[block] = loss_and_gradient(
                given,
                flat_y[part],
                KINDS[spec.kind],
                spec.alpha,
                spec.beta,
                spec.gamma,
                spec.weight,
                scale if is_plain else 1.0,
                out_losses,
                out,
            )
            if not is_plain:
                of_block = flat_weights[part], scale, out_losses, out
                totals[block] = settle(flat_s[part], bound, *of_block)
            if not direct:
                convert.narrow_into(out, flat_grad[part], logits_dtype)

    threads.split(blocks, work, _THREAD_BLOCKS)
    # In the order of the blocks, whichever thread computed them.
    return float(totals.sum()), bool(good.all())


def warm_up() -> None:
    """Compile (or load from the disk cache) every kernel that a request can need."""
    from cass_core.arrays import LOGIT_DTYPES, MASK_DTYPES, TARGET_DTYPES

    boxes = BoxBatch(np.array([[2, 2, 6, 6]], np.float32), np.array([1]))
    sizes = np.array([[8.0, 8.0]])
    inputs = MaskInputs(boxes, sizes, [(8, 8)], True, MaskSpec(), "float32", False)
    for dtype in MASK_DTYPES:
        mask = np.empty(inputs.shapes()[0], storage_dtype(dtype))
        fill_mask(boxes, sizes, (8, 8), MaskSpec(), dtype, mask, None)
    counter(inputs)(read_only(np.asarray(boxes.xyxy)), boxes.offsets)
    message = np.frombuffer(b"\0", np.uint8)
    boxes_of_message(message, False, np.empty((0, 4), np.float32), np.empty(1, np.int64))
    for logits in LOGIT_DTYPES:
        for target in TARGET_DTYPES:
            take_loss(
                np.zeros(4, storage_dtype(logits)),
                logits,
                np.zeros(4, storage_dtype(target)),
                target,
                LossSpec(logit_clamp=1.0),
                1.0,
                weights=np.ones(4, np.float32),
                grad=np.empty(4, storage_dtype(logits)),
            )
