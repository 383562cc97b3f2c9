"""MaskSpec, LossSpec and WeightSpec: every option of the method, frozen and checked once."""

from __future__ import annotations

from cass_core.specs.fields import check_flag
from cass_core.specs.loss import LossKind, LossSpec, Reduction, normalizer_of
from cass_core.specs.mask import MaskSpec
from cass_core.specs.weight import WeightSpec

__all__ = [
    "LossKind",
    "LossSpec",
    "MaskSpec",
    "Reduction",
    "WeightSpec",
    "check_flag",
    "normalizer_of",
]
