"""Runs the CPU kernels on whole requests: NumPy arrays in, NumPy arrays out."""

from __future__ import annotations

import numpy as np

from cass_core.arrays import Array, storage_dtype
from cass_core.boxes import BoxBatch
from cass_core.codes import KINDS, MERGES, TEMPERATURES
from cass_core.cpu import convert
from cass_core.cpu.losses import loss_and_gradient
from cass_core.cpu.masks import mask_images
from cass_core.grid import FeatureMap, Sizes, patch_grid
from cass_core.specs import LossSpec, MaskSpec

# Patches of float32 scratch that the second-level cache holds beside the output.
_SCRATCH_PATCHES = 1 << 16
# One block of the loss kernel.
_LOSS_SCRATCH = 1024


def make_mask(
    boxes: BoxBatch,
    sizes: Sizes,
    feature_map: FeatureMap,
    spec: MaskSpec,
    dtype: str,
    return_owner: bool,
) -> tuple[Array, Array | None]:
    """The mask ``[B, n_y, n_x]`` and, if asked for, the owner map of a checked request.

    ``boxes`` must lie in the host's memory. A bfloat16 mask comes as its uint16 bits.
    """
    images = boxes.num_images
    rows, columns = patch_grid(feature_map, spec.patch_size)
    mask = np.empty((images, rows, columns), storage_dtype(dtype))
    owner = np.empty((images if return_owner else 0, rows, columns), np.int32)
    height, width = feature_map
    xyxy, offsets, sizes = _read_only(np.asarray(boxes.xyxy), boxes.offsets, sizes)
    patch_y, patch_x = min(spec.patch_size, height), min(spec.patch_size, width)
    sigma_x, sigma_y = spec.sigma_xy
    direct = dtype == "float32"
    step = max(1, images if direct else _SCRATCH_PATCHES // (rows * columns))
    scratch = mask if direct else np.empty((min(step, images), rows, columns), np.float32)
    for first in range(0, images, step):
        part = scratch[: min(step, images - first)]
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
            part,
            owner[first : first + step],
        )
        if not direct:
            convert.narrow_into(part, mask[first : first + step], dtype)
    return mask, owner if return_owner else None


def _read_only(*arrays: Array) -> tuple[Array, ...]:
    """Views that cannot be written to.

    What a request brings lies in immutable bytes, and numba compiles a kernel anew for
    arguments that differ in this alone: so all inputs are given like that.
    """
    views = tuple(array.view() for array in arrays)
    for view in views:
        view.flags.writeable = False
    return views


def take_loss(
    logits: Array,
    logits_dtype: str,
    target: Array,
    target_dtype: str,
    spec: LossSpec,
    scale: float,
    *,
    per_patch: bool,
    return_grad: bool,
) -> tuple[float, bool, Array | None, Array | None]:
    """Sum of the losses, whether the target lies in [0, 1], losses per patch and gradient.

    The losses are float32 (float64 for float64 logits), the gradient, times ``scale``, has the
    logits' dtype. Shapes are the logits'.
    """
    s = convert.widen(np.ascontiguousarray(logits), logits_dtype)
    y = convert.widen(np.ascontiguousarray(target), target_dtype).astype(s.dtype, copy=False)
    losses = np.empty(s.size if per_patch else _LOSS_SCRATCH, s.dtype)
    grad = np.empty(s.size if return_grad else 0, s.dtype)
    flat_s, flat_y = _read_only(s.reshape(-1), y.reshape(-1))
    total, target_good = loss_and_gradient(
        flat_s,
        flat_y,
        KINDS[spec.kind],
        spec.alpha,
        spec.beta,
        spec.gamma,
        spec.weight,
        scale,
        losses,
        grad,
    )
    gradient = None
    if return_grad:
        gradient = np.empty(logits.shape, storage_dtype(logits_dtype))
        convert.narrow_into(grad, gradient, logits_dtype)
    return total, target_good, losses.reshape(logits.shape) if per_patch else None, gradient


def warm_up() -> None:
    """Compile (or load from the disk cache) every kernel that a request can need."""
    from cass_core.arrays import LOGIT_DTYPES, MASK_DTYPES, TARGET_DTYPES

    boxes = BoxBatch(np.array([[2, 2, 6, 6]], np.float32), np.array([1]))
    sizes = np.array([[8.0, 8.0]])
    for dtype in MASK_DTYPES:
        make_mask(boxes, sizes, (8, 8), MaskSpec(), dtype, return_owner=False)
    for logits in LOGIT_DTYPES:
        for target in TARGET_DTYPES:
            take_loss(
                np.zeros(4, storage_dtype(logits)),
                logits,
                np.zeros(4, storage_dtype(target)),
                target,
                LossSpec(),
                1.0,
                per_patch=False,
                return_grad=True,
            )
