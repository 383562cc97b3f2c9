"""Specs as the operators take them, lists of whole numbers and of floats, and back.

torch's operators know neither dataclasses nor enumerations, and torch.compile traces plain
numbers best.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from cass_core.enums import KINDS, MERGES, TEMPERATURES
from cass_core.specs import LossSpec, MaskSpec, Reduction

LARGEST = 3e38
"""Of the numbers that the kernels take: float32's largest, nearly; they want no infinities."""

_MASK_NUMBERS = (
    "expansion_ratio",
    "min_size",
    "min_radius",
    "small_target_gain",
    "small_target_threshold",
    "size_reference",
    "size_factor_min",
    "size_factor_max",
)
_LOSS_NUMBERS = ("alpha", "beta", "gamma", "weight")
_REDUCED = 0
_PER_PATCH = 1


def mask_options(spec: MaskSpec) -> tuple[list[int], list[float]]:
    """Patch size, anisotropic, Gaussian, temperature, sub-pixel and merge; and the numbers."""
    choices = [
        spec.patch_size,
        int(spec.use_anisotropic_gaussian),
        int(spec.decay_type == "gaussian"),
        TEMPERATURES[spec.temperature],
        int(spec.use_subpixel_offset),
        MERGES[spec.merge],
    ]
    return choices, [*spec.sigma_xy, *(getattr(spec, name) for name in _MASK_NUMBERS)]


def mask_spec(choices: Sequence[int], numbers: Sequence[float]) -> MaskSpec:
    """The spec that `mask_options` made these from.

    Example:
        >>> mask_spec(*mask_options(MaskSpec(merge="sum"))).merge
        'sum'
    """
    return _mask_spec(tuple(choices), tuple(numbers))


@functools.lru_cache(maxsize=64)
def _mask_spec(choices: tuple[int, ...], numbers: tuple[float, ...]) -> MaskSpec:
    patch_size, anisotropic, gaussian, temperature, subpixel, merge = choices
    sigma_x, sigma_y, *others = numbers
    options: dict[str, Any] = dict(zip(_MASK_NUMBERS, others, strict=True))
    return MaskSpec(
        patch_size=patch_size,
        use_anisotropic_gaussian=bool(anisotropic),
        decay_type="gaussian" if gaussian else "linear",
        base_sigma=(sigma_x, sigma_y) if anisotropic else sigma_x,
        temperature=_name(TEMPERATURES, temperature),
        use_subpixel_offset=bool(subpixel),
        merge=_name(MERGES, merge),
        **options,
    )


def loss_options(spec: LossSpec) -> tuple[list[int], list[float]]:
    """The kind and whether every patch's loss is requested; alpha, beta, gamma and weight."""
    choices = [KINDS[spec.kind], _PER_PATCH if spec.reduction == "none" else _REDUCED]
    return choices, [getattr(spec, name) for name in _LOSS_NUMBERS]


def loss_spec(choices: Sequence[int], numbers: Sequence[float]) -> LossSpec:
    """The spec that `loss_options` made these from; num_boxes is what divides the sum."""
    kind, per_patch = choices
    options: dict[str, Any] = dict(zip(_LOSS_NUMBERS, numbers, strict=True))
    reduction: Reduction = "none" if per_patch else "per_object"
    return LossSpec(kind=_name(KINDS, kind), reduction=reduction, **options)


class Shape(NamedTuple):
    """What is compiled into a kernel that makes masks."""

    anisotropic: bool
    gaussian: bool
    temperature: int
    subpixel: bool
    merge: int
    sizes: bool


class Loss(NamedTuple):
    """What is compiled into a kernel that takes losses.

    Attributes:
        kind: as in `cass_core.enums.KINDS`.
        whole: alpha, beta, gamma where they are whole and at most 4, else -1.
        per_patch: whether each patch's loss is stored.
        grad: whether the gradient is.
    """

    kind: int
    whole: tuple[int, ...]
    per_patch: bool
    grad: bool


def kernel_shape(choices: Sequence[int], sizes: bool) -> Shape:
    """Of what `mask_options` gives, and whether each image has a size of its own."""
    _, anisotropic, gaussian, temperature, subpixel, merge = choices
    return Shape(bool(anisotropic), bool(gaussian), temperature, bool(subpixel), merge, sizes)


def kernel_numbers(choices: Sequence[int], numbers: Sequence[float]) -> tuple[float, ...]:
    """What `cass_core.ops.tiles.soft_tile` computes with, from what `mask_options` gives.

    Returns:
        What float32 cannot hold of expansion and least size; expansion, least size, least radius,
        the factors of u^2 and v^2 in the exponent of 2, and the three numbers of the temperature.
    """
    sigma_x, sigma_y, expansion, size, radius, gain, threshold, reference, low, high = numbers
    temperature = (0.0, 0.0, 0.0)
    if choices[3] == TEMPERATURES["small_gain"]:
        temperature = (threshold * threshold, _inverse_square(gain), 0.0)
    elif choices[3] == TEMPERATURES["size_scaled"]:
        temperature = (1.0 / reference, low, high)
    # exp(-u^2 / (2 sigma^2)) as a power of 2.
    scales = tuple(-0.5 * math.log2(math.e) * _inverse_square(s) for s in (sigma_x, sigma_y))
    found = (expansion, size, radius, *scales, *temperature)
    bounded = [min(max(number, -LARGEST), LARGEST) for number in found]
    return *split_numbers(bounded[:2])[1], *bounded


def split_numbers(numbers: Sequence[float]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Each number as the sum of two that float32 holds, which is what kernels are launched with.

    Example:
        >>> (head,), (rest,) = split_numbers([0.3])
        >>> head == 0.3, head + rest == 0.3
        (False, True)
    """
    bounded = [min(number, LARGEST) for number in numbers]
    heads = [float(np.float32(number)) for number in bounded]
    return tuple(heads), tuple(n - head for n, head in zip(bounded, heads, strict=True))


def _inverse_square(value: float) -> float:
    square = value * value
    return 1.0 / square if square > 0 else LARGEST


def _name(codes: dict[str, int], code: int) -> Any:
    return next(name for name, number in codes.items() if number == code)
