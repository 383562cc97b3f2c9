"""LossSpec: which loss is taken, and what its sum is divided by."""

from __future__ import annotations

import dataclasses
import math
import numbers
from dataclasses import dataclass
from typing import Any, Literal, get_args

from cass_core.errors import InvalidRequest
from cass_core.specs.fields import FieldChecker

LossKind = Literal["mse", "bce", "focal", "cornernet", "quality_focal", "varifocal", "soft_focal"]
Reduction = Literal["none", "mean", "sum", "per_object"]


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
    ``soft_focal``     weight (1 - q)^gamma bce, q = p y + (1 - p) (1 - y)     CaS-DETR
    ================== ======================================================= ================

    Attributes:
        kind: one of the above.
        alpha: exponent of ``focal`` and ``cornernet``; at least 0.
        beta: exponent of ``focal`` and ``cornernet``; at least 0.
        gamma: exponent of ``quality_focal``, ``varifocal`` and ``soft_focal``; at least 0.
        weight: weight of the background in ``varifocal``, of all in ``soft_focal``; at least 0.
        reduction: ``none``, ``mean`` (over all patches), ``sum``, or ``per_object`` (the sum
            divided by max(1, number of boxes in the batch)).
        logit_clamp: None, or c above 0: the loss is that of min(max(logit, -c), c), and its
            gradient is 0 where abs(logit) > c.

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
    logit_clamp: float | None = None

    def __post_init__(self) -> None:
        check = FieldChecker(self, "loss_spec")
        check.choice("kind", get_args(LossKind))
        for name in ("alpha", "beta", "gamma", "weight"):
            check.number(name, zero_allowed=True)
        check.choice("reduction", get_args(Reduction))
        if self.logit_clamp is not None:
            check.number("logit_clamp", zero_allowed=False)

    @classmethod
    def baseline(cls) -> LossSpec:
        """The method as audited: the mean squared error of the probabilities."""
        return cls(kind="mse")

    @classmethod
    def improved(cls) -> LossSpec:
        """The audit's improvement: its modified focal loss."""
        return cls(kind="focal")

    @classmethod
    def cas_detr(cls) -> LossSpec:
        """CaS-DETR's published configuration; it adds 0.05 of this to the detector's loss."""
        return cls(kind="varifocal", weight=2.0, gamma=4.0, logit_clamp=8.0)

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
