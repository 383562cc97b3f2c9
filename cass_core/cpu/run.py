"""Runs the CPU kernels on whole requests: NumPy arrays in, NumPy arrays out."""

from __future__ import annotations

import numpy as np

from cass_core.arrays import Array, read_only, storage_dtype
from cass_core.boxes import BoxBatch
from cass_core.codes import KINDS, MERGES, TEMPERATURES
from cass_core.cpu import boxes as _  # noqa: F401 - boxes are checked by it from now on
from cass_core.cpu import convert, threads
from cass_core.cpu.losses import loss_and_gradient
from cass_core.cpu.masks import mask_images
from cass_core.grid import FeatureMap, Sizes
from cass_core.specs import LossSpec, MaskSpec

# Patches of float32 scratch that the second-level cache holds beside the output.
_SCRATCH_PATCHES = 1 << 16
# One block of the loss kernel's own.
_LOSS_SCRATCH = 1024
# Patches of a loss that are summed together, whatever the number of threads.
_LOSS_BLOCK = 1 << 16
# What is worth a thread of its own: some 100 us of work, where handing it over takes 20.
_THREAD_PATCHES = 1 << 18
_THREAD_BLOCKS = 2


def fill_mask(
    boxes: BoxBatch,
    sizes: Sizes,
    feature_map: FeatureMap,
    spec: MaskSpec,
    dtype: str,
    mask: Array,
    owner: Array | None,
) -> None:
    """Compute the mask ``[B, n_y, n_x]`` and, if asked for, the owner map of a checked request.

    ``boxes`` must lie in the host's memory. A bfloat16 mask comes as its uint16 bits.
    """
    images, rows, columns = mask.shape
    if owner is None:
        owner = np.empty((0, rows, columns), np.int32)
    height, width = feature_map
    xyxy = read_only(np.asarray(boxes.xyxy))
    offsets, sizes = read_only(boxes.offsets), read_only(sizes)
    patch_y, patch_x = min(spec.patch_size, height), min(spec.patch_size, width)
    sigma_x, sigma_y = spec.sigma_xy
    direct = dtype == "float32"
    step = max(1, images if direct else _SCRATCH_PATCHES // (rows * columns))

    def work(start: int, stop: int) -> None:
        part = min(step, stop - start)
        scratch = mask[start:stop] if direct else np.empty((part, rows, columns), np.float32)
        for first in range(start, stop, step):
            last = min(first + step, stop)
            out = scratch[: last - first]
            mask_images(
                xyxy,
                offsets,
                sizes,
                first,
                height,
                width,
                patch_y,
                patch_x,
                spec.expansion_ratio,
                spec.min_size,
                spec.use_anisotropic_gaussian,
                spec.decay_type == "gaussian",
                sigma_x,
                sigma_y,
                TEMPERATURES[spec.temperature],
                spec.small_target_gain,
                spec.small_target_threshold,
                spec.size_reference,
                spec.size_factor_min,
                spec.size_factor_max,
                spec.use_subpixel_offset,
                MERGES[spec.merge],
                spec.min_radius,
                out,
                owner[first:last],
            )
            if not direct:
                convert.narrow_into(out, mask[first:last], dtype)

    threads.split(images, work, -(-_THREAD_PATCHES // (rows * columns)))


def take_loss(
    logits: Array,
    logits_dtype: str,
    target: Array,
    target_dtype: str,
    spec: LossSpec,
    scale: float,
    *,
    losses: Array | None = None,
    grad: Array | None = None,
) -> tuple[float, bool]:
    """Sum of the losses, and whether the target lies in [0, 1].

    If given, ``losses`` is filled with the loss of each patch (float32, or float64 for float64
    logits) and ``grad`` with the gradient, times ``scale``, in the logits' dtype; both are
    contiguous and of the logits' shape.
    """
    s = convert.widen(np.ascontiguousarray(logits), logits_dtype)
    y = convert.widen(np.ascontiguousarray(target), target_dtype).astype(s.dtype, copy=False)
    flat_s, flat_y = read_only(s.reshape(-1)), read_only(y.reshape(-1))
    flat_losses = None if losses is None else losses.reshape(-1)
    flat_grad = np.empty(0, s.dtype) if grad is None else grad.reshape(-1)
    # Half-precision gradients are rounded block by block, from scratch.
    direct = flat_grad.dtype == s.dtype
    blocks = -(-s.size // _LOSS_BLOCK)
    totals = np.zeros(blocks)
    good = np.ones(blocks, np.bool_)

    def work(start: int, stop: int) -> None:
        for block in range(start, stop):
            part = slice(block * _LOSS_BLOCK, min((block + 1) * _LOSS_BLOCK, s.size))
            out = flat_grad[part] if direct else np.empty(part.stop - part.start, s.dtype)
            totals[block], good[block] = loss_and_gradient(
                flat_s[part],
                flat_y[part],
                KINDS[spec.kind],
                spec.alpha,
                spec.beta,
                spec.gamma,
                spec.weight,
                scale,
                np.empty(_LOSS_SCRATCH, s.dtype) if flat_losses is None else flat_losses[part],
                out,
            )
            if not direct:
                convert.narrow_into(out, flat_grad[part], logits_dtype)

    threads.split(blocks, work, _THREAD_BLOCKS)
    # In the order of the blocks, whoever computed them.
    return float(totals.sum()), bool(good.all())


def warm_up() -> None:
    """Compile (or load from the disk cache) every kernel that a request can need."""
    from cass_core.arrays import LOGIT_DTYPES, MASK_DTYPES, TARGET_DTYPES

    boxes = BoxBatch(np.array([[2, 2, 6, 6]], np.float32), np.array([1]))
    sizes = np.array([[8.0, 8.0]])
    for dtype in MASK_DTYPES:
        mask = np.empty((1, 2, 2), storage_dtype(dtype))
        fill_mask(boxes, sizes, (8, 8), MaskSpec(), dtype, mask, None)
    for logits in LOGIT_DTYPES:
        for target in TARGET_DTYPES:
            take_loss(
                np.zeros(4, storage_dtype(logits)),
                logits,
                np.zeros(4, storage_dtype(target)),
                target,
                LossSpec(),
                1.0,
                grad=np.empty(4, storage_dtype(logits)),
            )
