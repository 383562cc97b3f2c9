"""WeightSpec: what a patch weighs in a loss."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal, get_args

from cass_core.specs.fields import FieldChecker

Balance = Literal["patch", "object"]

# Weights are float32.
_LARGEST = 3e38


@dataclass(frozen=True, slots=True)
class WeightSpec:
    """What a patch weighs in a loss, beside what regions and the weights of boxes say.

    Attributes:
        balance: ``patch``: a patch weighs as much as its owner, the box that gave it its value.
            ``object``: each object has the same share of what the objects' patches weigh
            together, times its own weight; needs ``MaskSpec.merge`` max.
        background_weight: of a patch that no box gave a value; at least 0.

    Raises:
        InvalidRequest: a value is of the wrong type or out of its range; the field is named
            ``weight_spec.<name>``.

    Example:
        >>> WeightSpec(balance="object").replace(background_weight=0.25)
        WeightSpec(balance='object', background_weight=0.25)
    """

    balance: Balance = "patch"
    background_weight: float = 1.0

    def __post_init__(self) -> None:
        check = FieldChecker(self, "weight_spec")
        check.choice("balance", get_args(Balance))
        check.number("background_weight", zero_allowed=True)
        if self.background_weight > _LARGEST:
            check.fail("background_weight", f"must be at most {_LARGEST}")

    @classmethod
    def recommended(cls) -> WeightSpec:
        """What docs/ablation.md has the evidence for: each object counts alike.

        The specs' other presets of this name are the defaults, this one is not: it needs
        ``MaskSpec.merge`` max and the batch as a whole, large objects pay for it, and a request
        that says nothing of weights means none.

        Example:
            >>> WeightSpec.recommended()
            WeightSpec(balance='object', background_weight=1.0)
        """
        return cls(balance="object")

    def replace(self, **changes: Any) -> WeightSpec:
        """A copy with some options changed, checked like a new one."""
        return dataclasses.replace(self, **changes)
