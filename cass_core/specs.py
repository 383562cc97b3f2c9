"""MaskSpec and LossSpec: every option of the method, frozen and checked once."""

from __future__ import annotations

import dataclasses
import math
import numbers
import operator
from dataclasses import dataclass
from typing import Any, Literal, get_args

from cass_core.errors import InvalidRequest

DecayType = Literal["gaussian", "linear"]
Temperature = Literal["fixed", "size_scaled", "small_gain"]
Merge = Literal["max", "sum", "clipped_sum"]
LossKind = Literal["mse", "bce", "focal", "cornernet", "quality_focal", "varifocal"]
Reduction = Literal["none", "mean", "sum", "per_object"]

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

    def __post_init__(self) -> None:
        check = _Checker(self, "mask_spec")
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


@dataclass(frozen=True, slots=True)
class LossSpec:
    """Which loss is taken on the patch logits, and how it is reduced.

    The defaults are the ``recommended`` preset. With p = sigmoid(logit) and target y:

    ================== ======================================================= ================
    kind               loss of a patch                                         source
    ================== ======================================================= ================
    ``mse``            (p - y)^2                                               audited method
    ``bce``            -[y log p + (1 - y) log(1 - p)]
    ``focal``          -(1 - p)^alpha log p y - p^beta log(1 - p) (1 - y)      audit
    ``cornernet``      y = 1: -(1 - p)^alpha log p;                            Law & Deng 2018,
                       else -(1 - y)^beta p^alpha log(1 - p)                   eq. 1
    ``quality_focal``  abs(y - p)^gamma bce                                    Li et al. 2020,
                                                                               eq. 3
    ``varifocal``      y > 0: y bce; else -weight p^gamma log(1 - p)           Zhang et al.
                                                                               2021, eq. 2
    ================== ======================================================= ================

    Attributes:
        kind: one of the above.
        alpha: exponent of ``focal`` and ``cornernet``; at least 0.
        beta: exponent of ``focal`` and ``cornernet``; at least 0.
        gamma: exponent of ``quality_focal`` and ``varifocal``; at least 0.
        weight: weight of the background in ``varifocal``; at least 0.
        reduction: ``none``, ``mean`` (over all patches), ``sum``, or ``per_object`` (the sum
            divided by max(1, number of boxes in the batch)).

    Raises:
        InvalidRequest: a value is of the wrong type or out of its range; the field is named
            ``loss_spec.<name>``.

    Example:
        >>> LossSpec(kind="bce", reduction="sum").kind
        'bce'
    """

    kind: LossKind = "cornernet"
    alpha: float = 2.0
    beta: float = 4.0
    gamma: float = 2.0
    weight: float = 0.75
    reduction: Reduction = "mean"

    def __post_init__(self) -> None:
        check = _Checker(self, "loss_spec")
        check.choice("kind", get_args(LossKind))
        for name in ("alpha", "beta", "gamma", "weight"):
            check.number(name, zero_allowed=True)
        check.choice("reduction", get_args(Reduction))

    @classmethod
    def baseline(cls) -> LossSpec:
        """The method as audited: the mean squared error of the probabilities."""
        return cls(kind="mse")

    @classmethod
    def improved(cls) -> LossSpec:
        """The audit's improvement: its modified focal loss."""
        return cls(kind="focal")

    @classmethod
    def recommended(cls) -> LossSpec:
        """The defaults: the loss that came first in docs/ablation.md, where ``focal`` came last."""
        return cls()

    def replace(self, **changes: Any) -> LossSpec:
        """A copy with some options changed, checked like a new one."""
        return dataclasses.replace(self, **changes)


def normalizer_of(spec: LossSpec, patches: int, num_boxes: float | None) -> float:
    """What the sum is divided by under the spec's reduction.

    Raises:
        InvalidRequest: ``num_boxes`` is needed or out of its range.
    """
    if num_boxes is not None:
        ok = isinstance(num_boxes, numbers.Real) and not isinstance(num_boxes, bool)
        # Compared, not converted: a whole number may be beyond every float.
        if not (ok and 0 <= num_boxes < math.inf):
            raise InvalidRequest("num_boxes", f"must be a number of at least 0, got {num_boxes!r}")
    if spec.reduction == "mean":
        return float(max(1, patches))
    if spec.reduction == "per_object":
        if num_boxes is None:
            raise InvalidRequest("num_boxes", "is needed for loss_spec.reduction per_object")
        return max(1.0, float(num_boxes))
    return 1.0


def check_flag(value: Any, field: str) -> bool:
    """True or False, of Python or NumPy; nothing else is a truth value, text least of all.

    Raises:
        InvalidRequest: it is neither; ``field`` is named.
    """
    # numpy.bool_ is not a bool, yet is what a table of options gives.
    if not isinstance(value, bool) and type(value).__name__ not in ("bool", "bool_"):
        raise InvalidRequest(field, f"must be True or False, got {value!r}")
    return bool(value)


class _Checker:
    """Checks the fields of a frozen spec and stores them as plain Python values."""

    def __init__(self, spec: MaskSpec | LossSpec, prefix: str) -> None:
        self._spec = spec
        self._prefix = prefix

    def fail(self, name: str, reason: str) -> None:
        raise InvalidRequest(f"{self._prefix}.{name}", reason)

    def _set(self, name: str, value: object) -> None:
        object.__setattr__(self._spec, name, value)

    def whole(self, name: str, low: int, high: int) -> None:
        value = getattr(self._spec, name)
        try:
            number = operator.index(value)
        except TypeError:
            number = low - 1
        if isinstance(value, bool) or not low <= number <= high:
            self.fail(name, f"must be a whole number from {low} to {high}, got {value!r}")
        self._set(name, number)

    def number(self, name: str, *, zero_allowed: bool) -> None:
        self._set(name, self._positive(name, getattr(self._spec, name), zero_allowed))

    def sigma(self, name: str) -> None:
        value = getattr(self._spec, name)
        if isinstance(value, list | tuple):
            if len(value) != 2:
                self.fail(name, f"must be one number or a pair (x, y), got {value!r}")
            self._set(name, tuple(self._positive(name, v, zero_allowed=False) for v in value))
        else:
            self.number(name, zero_allowed=False)

    def flag(self, name: str) -> None:
        self._set(name, check_flag(getattr(self._spec, name), f"{self._prefix}.{name}"))

    def choice(self, name: str, choices: tuple[str, ...]) -> None:
        value = getattr(self._spec, name)
        if not isinstance(value, str) or value not in choices:
            self.fail(name, f"must be one of {', '.join(choices)}, got {value!r}")

    def _positive(self, name: str, value: object, zero_allowed: bool) -> float:
        ok = isinstance(value, numbers.Real) and not isinstance(value, bool)
        try:
            number = float(value) if ok else math.nan  # type: ignore[arg-type]
        except OverflowError:  # a whole number beyond every float
            number = math.inf
        if not (math.isfinite(number) and (number > 0 or (zero_allowed and number == 0))):
            bound = "at least 0" if zero_allowed else "above 0"
            self.fail(name, f"must be a finite number {bound}, got {value!r}")
        return number
