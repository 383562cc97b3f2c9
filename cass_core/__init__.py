"""CASS: soft target masks and losses for patch-importance predictors.

The method itself, without network or protobuf. Importing it loads NumPy alone; numba, torch and
matplotlib are loaded by the first call that needs them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cass_core.boxes import BoxBatch
from cass_core.coverage import boxes_without_patch
from cass_core.errors import CassError, InputWarning, InvalidRequest
from cass_core.losses import compute_loss
from cass_core.masks import generate_mask
from cass_core.results import LossResult
from cass_core.specs import LossSpec, MaskSpec, WeightSpec

if TYPE_CHECKING:
    from cass_core.nn import CassLoss, MaskLoss

__version__ = "0.1.0"

__all__ = [
    "BoxBatch",
    "CassError",
    "CassLoss",
    "InputWarning",
    "InvalidRequest",
    "LossResult",
    "LossSpec",
    "MaskLoss",
    "MaskSpec",
    "WeightSpec",
    "boxes_without_patch",
    "compute_loss",
    "generate_mask",
]


def __getattr__(name: str) -> object:
    if name in ("CassLoss", "MaskLoss"):  # they need torch
        from cass_core import nn

        return getattr(nn, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
