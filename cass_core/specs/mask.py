"""MaskSpec: how a mask is made."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

from cass_core.specs.fields import FieldChecker

DecayType = Literal["gaussian", "linear"]
Temperature = Literal["fixed", "size_scaled", "small_gain"]
Merge = Literal["max", "sum", "clipped_sum"]
Range = tuple[float, float]

_MAX_PATCH_SIZE = 2**31 - 1


@dataclass(frozen=True, slots=True)
class MaskSpec:
    """How a soft target mask is made from boxes.

    The defaults are the ``recommended`` preset. Lengths are in feature-map cells.

    Attributes:
        patch_size: side p of a patch, whole cells, at least 1; never larger than the map. It
            belongs to the predictor that is taught: 1 for one token per cell, as DETR-like
            encoders have them. With more, a small box may hold no patch's centre and has no
            target at all (`boxes_without_patch` counts them).
        expansion_ratio: width of the context band on each side, as a share of the box's
            side; at least 0.
        min_size: a box side shorter than this becomes exactly this long around the same
            centre; at least 0.
        use_anisotropic_gaussian: normalise the distance along x and y separately (True) or
            by one radius (False).
        decay_type: ``gaussian``, or ``linear`` (1 - d).
        base_sigma: Gaussian width in units of the normalised distance, above 0: one number,
            or a pair (x, y) where the falloff is anisotropic.
        temperature: factor on ``base_sigma``: ``fixed`` (1), ``size_scaled``
            (clamp(s / size_reference, size_factor_min, size_factor_max)) or ``small_gain``
            (small_target_gain where s < small_target_threshold, else 1), with
            s = sqrt(box width * box height).
        small_target_gain: see ``temperature``; above 0.
        small_target_threshold: see ``temperature``; at least 0.
        size_reference: see ``temperature``; above 0.
        size_factor_min: see ``temperature``; above 0.
        size_factor_max: see ``temperature``; at least ``size_factor_min``.
        use_subpixel_offset: measure the distance from the box's true centre, before it is
            clipped to the image (True), or from the clipped box's edge (False).
        merge: value of a patch that several boxes reach: ``max``, ``sum`` (may exceed 1) or
            ``clipped_sum`` (min(sum, 1)).
        min_radius: smallest divisor of the normalised distance; at least 0.
        level_ranges: None, or for each feature map of the call a pair (low, high) in pixels: a
            box takes part in that level if low < its longer side <= high, as FCOS assigns boxes
            to levels; 0 <= low < high, and high may be infinite.

    Raises:
        InvalidRequest: a value is of the wrong type or out of its range; the field is named
            ``mask_spec.<name>``.

    Example:
        >>> MaskSpec().replace(merge="clipped_sum").merge
        'clipped_sum'
        >>> MaskSpec(patch_size=0)
        Traceback (most recent call last):
        cass_core.errors.InvalidRequest: mask_spec.patch_size: must be a whole number from 1 \
to 2147483647, got 0
    """

    patch_size: int = 1
    expansion_ratio: float = 0.3
    min_size: float = 1.0
    use_anisotropic_gaussian: bool = True
    decay_type: DecayType = "gaussian"
    base_sigma: float | tuple[float, float] = 0.5
    temperature: Temperature = "small_gain"
    small_target_gain: float = 1.5
    small_target_threshold: float = 4.0
    size_reference: float = 8.0
    size_factor_min: float = 0.5
    size_factor_max: float = 2.0
    use_subpixel_offset: bool = True
    merge: Merge = "max"
    min_radius: float = 1.0
    level_ranges: tuple[Range, ...] | None = None

    def __post_init__(self) -> None:
        check = FieldChecker(self, "mask_spec")
        check.whole("patch_size", 1, _MAX_PATCH_SIZE)
        for name in ("expansion_ratio", "min_size", "small_target_threshold", "min_radius"):
            check.number(name, zero_allowed=True)
        for name in ("small_target_gain", "size_reference", "size_factor_min", "size_factor_max"):
            check.number(name, zero_allowed=False)
        for name in ("use_anisotropic_gaussian", "use_subpixel_offset"):
            check.flag(name)
        check.choice("decay_type", get_args(DecayType))
        check.choice("temperature", get_args(Temperature))
        check.choice("merge", get_args(Merge))
        check.sigma("base_sigma")
        check.ranges("level_ranges")
        if self.size_factor_max < self.size_factor_min:
            check.fail(
                "size_factor_max", f"is smaller than size_factor_min ({self.size_factor_min})"
            )
        sigma_x, sigma_y = self.sigma_xy
        if not self.use_anisotropic_gaussian and sigma_x != sigma_y:
            check.fail("base_sigma", "must be one number where use_anisotropic_gaussian is False")

    @classmethod
    def baseline(cls) -> MaskSpec:
        """The method as audited: isotropic, fixed temperature, clipped anchor, no least radius."""
        return cls(
            use_anisotropic_gaussian=False,
            temperature="fixed",
            use_subpixel_offset=False,
            min_radius=0.0,
        )

    @classmethod
    def improved(cls) -> MaskSpec:
        """The audit's improvements: anisotropic, small_gain, true centre, a least radius of 1."""
        return cls()

    @classmethod
    def cas_detr(cls) -> MaskSpec:
        """As CaS-DETR's published configuration has it, made there at stride 32."""
        return cls(
            expansion_ratio=0.8,
            use_anisotropic_gaussian=False,
            temperature="fixed",
        )

    @classmethod
    def recommended(cls) -> MaskSpec:
        """The defaults: `improved`, of whose masks docs/ablation.md has the evidence."""
        return cls()

    def replace(self, **changes: Any) -> MaskSpec:
        """A copy with some options changed, checked like a new one."""
        return dataclasses.replace(self, **changes)

    @property
    def sigma_xy(self) -> tuple[float, float]:
        """``base_sigma`` as a pair (x, y)."""
        sigma = self.base_sigma
        return sigma if isinstance(sigma, tuple) else (sigma, sigma)

    @property
    def num_ranges(self) -> int | None:
        """How many level ranges there are, if any."""
        return None if self.level_ranges is None else len(self.level_ranges)

    def of_level(self, level: int) -> MaskSpec:
        """The spec of one feature map alone, of several."""
        if self.level_ranges is None:
            return self
        return self.replace(level_ranges=(self.level_ranges[level],))

    def range_of(self, level: int) -> Range:
        """The entry of ``level_ranges``, of which every box is within (-1, inf] without them."""
        return (-1.0, math.inf) if self.level_ranges is None else self.level_ranges[level]
