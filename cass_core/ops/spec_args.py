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

from cass_core.specs import LossSpec, MaskSpec
from cass_core.specs.enums import KINDS, MERGES, TEMPERATURES

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
# Behind the two of base_sigma and these come the bounds of level_ranges.
_RANGES = 2 + len(_MASK_NUMBERS)
_LOSS_NUMBERS = ("alpha", "beta", "gamma", "weight")
_REDUCTIONS: dict[str, int] = {"per_object": 0, "none": 1, "mean": 2}


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
    ranges = [bound for pair in spec.level_ranges or () for bound in pair]
    return choices, [*spec.sigma_xy, *(getattr(spec, name) for name in _MASK_NUMBERS), *ranges]


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
    options: dict[str, Any] = dict(zip(_MASK_NUMBERS, others, strict=False))
    bounds = numbers[_RANGES:]
    ranges = tuple(zip(bounds[::2], bounds[1::2], strict=True)) or None
    return MaskSpec(
        patch_size=patch_size,
        use_anisotropic_gaussian=bool(anisotropic),
        decay_type="gaussian" if gaussian else "linear",
        base_sigma=(sigma_x, sigma_y) if anisotropic else sigma_x,
        temperature=_name(TEMPERATURES, temperature),
        use_subpixel_offset=bool(subpixel),
        merge=_name(MERGES, merge),
        level_ranges=ranges,
        **options,
    )


def loss_options(spec: LossSpec) -> tuple[list[int], list[float]]:
    """The kind and the reduction; the numbers, the clamp or 0 last.

    A reduction that divides by what is known beforehand is ``per_object``.
    """
    choices = [KINDS[spec.kind], _REDUCTIONS.get(spec.reduction, 0)]
    return choices, [*(getattr(spec, name) for name in _LOSS_NUMBERS), spec.logit_clamp or 0.0]


def loss_spec(choices: Sequence[int], numbers: Sequence[float]) -> LossSpec:
    """The spec that `loss_options` made these from; num_boxes is what divides the sum."""
    kind, reduction = choices
    options: dict[str, Any] = dict(zip(_LOSS_NUMBERS, numbers[:-1], strict=True))
    options["logit_clamp"] = numbers[-1] or None
    return LossSpec(kind=_name(KINDS, kind), reduction=_name(_REDUCTIONS, reduction), **options)


def is_per_patch(choices: Sequence[int]) -> bool:
    """Whether every patch's loss is requested."""
    return choices[1] == _REDUCTIONS["none"]


def is_mean(choices: Sequence[int]) -> bool:
    """Whether the sum is divided by that of the weights, where there are weights."""
    return choices[1] == _REDUCTIONS["mean"]


class Shape(NamedTuple):
    """What is compiled into a kernel that makes masks."""

    anisotropic: bool
    gaussian: bool
    temperature: int
    subpixel: bool
    merge: int
    sizes: bool
    ranges: bool


class Loss(NamedTuple):
    """What is compiled into a kernel that takes losses.

    Attributes:
        kind: as in `cass_core.specs.enums.KINDS`.
        alpha, beta, gamma: where they are whole and at most 4, else -1.
        per_patch: whether each patch's loss is stored.
        grad: whether the gradient is.
        clamp: whether logits are clamped.
        weighted: whether patches have weights.
    """

    kind: int
    alpha: int
    beta: int
    gamma: int
    per_patch: bool
    grad: bool
    clamp: bool
    weighted: bool


class Weigh(NamedTuple):
    """What is compiled into a kernel that weighs patches.

    Attributes:
        owner: whether owners are stored.
        counts: whether the patches that each box owns are counted.
        valid: whether there are valid regions.
        ignore: whether there are ignored boxes.
    """

    owner: bool
    counts: bool
    valid: bool
    ignore: bool


def kernel_shape(choices: Sequence[int], numbers: Sequence[float], sizes: bool) -> Shape:
    """Of what `mask_options` gives, and whether each image has a size of its own."""
    _, anisotropic, gaussian, temperature, subpixel, merge = choices
    flags = bool(anisotropic), bool(gaussian), temperature, bool(subpixel)
    return Shape(*flags, merge, sizes, len(numbers) > _RANGES)


def kernel_sides(*sides: int) -> tuple[float, ...]:
    """Whole numbers, each as its upper and its lower 16 bits, for `cass_core.ops.tiles.sides`.

    As floats, since Triton never compiles these in. Of integers in a tuple it compiles in which are
    1 or multiples of 16, even where ``do_not_specialize`` names the tuple.

    Example:
        >>> kernel_sides(92, 70_000)
        (0.0, 92.0, 1.0, 4464.0)
    """
    return tuple(float(half) for side in sides for half in divmod(side, 1 << 16))


def kernel_scale(cells: Sequence[int], pixels: Sequence[int]) -> tuple[float, ...]:
    """Cells a pixel of each axis, for `cass_core.ops.tiles.image_of`, which then divides nothing.

    Each quotient, in float64, is the sum of three numbers that float32 holds.

    Example:
        >>> kernel_scale((23, 40), (736, 1280))
        (0.03125, 0.0, 0.0, 0.03125, 0.0, 0.0)
    """
    found: list[float] = []
    for side, length in zip(cells, pixels, strict=True):
        head, rest = split_number(side / length)
        found += head, *split_number(rest)
    return tuple(found)


def kernel_ranges(numbers: Sequence[float], maps: int) -> tuple[tuple[float, ...], ...]:
    """The bounds of each map's level as heads and rests; without ranges they have no meaning.

    Returns:
        For each map the heads of the two bounds and what float32 cannot hold of them.
    """
    bounds = [min(bound, LARGEST) for bound in numbers[_RANGES:]] or [0.0] * (2 * maps)
    heads, rests = split_numbers(bounds)
    pairs = zip(heads[::2], heads[1::2], rests[::2], rests[1::2], strict=True)
    return tuple(pairs)


def kernel_numbers(choices: Sequence[int], numbers: Sequence[float]) -> tuple[float, ...]:
    """What `cass_core.ops.tiles.soft_tile` computes with, from what `mask_options` gives.

    Returns:
        What float32 cannot hold of expansion and least size; expansion, least size, least radius,
        the factors of u^2 and v^2 in the exponent of 2, and the three numbers of the temperature.
    """
    sigma_x, sigma_y, expansion, size, radius, gain, *of_size = numbers[:_RANGES]
    threshold, reference, low, high = of_size
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
    parts = [split_number(number) for number in numbers]
    return tuple(head for head, _ in parts), tuple(rest for _, rest in parts)


def split_number(number: float) -> tuple[float, float]:
    """One number, as of `split_numbers`."""
    bounded = min(number, LARGEST)
    head = float(np.float32(bounded))
    return head, bounded - head


def _inverse_square(value: float) -> float:
    square = value * value
    return 1.0 / square if square > 0 else LARGEST


def _name(codes: dict[str, int], code: int) -> Any:
    return next(name for name, number in codes.items() if number == code)
