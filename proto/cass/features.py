"""What servers of the contract's first version do not know, and which requests need it."""

from __future__ import annotations

from typing import Final

from cass_core.inputs import LossInputs, MaskInputs

FEATURES: Final = ("level_ranges", "logit_clamp", "soft_focal", "weights")
"""What this version knows; the contract names them at its fields."""

_NONE: Final[frozenset[str]] = frozenset()


def features_of(inputs: MaskInputs | LossInputs | None) -> frozenset[str]:
    """The features that a request needs.

    Example:
        >>> from cass_core import LossSpec
        >>> spec = LossSpec(logit_clamp=8)
        >>> inputs = LossInputs.check([[0.0]], [[1.0]], spec, None, False)
        >>> sorted(features_of(inputs))
        ['logit_clamp']
    """
    if inputs is None:
        return _NONE
    if isinstance(inputs, MaskInputs):
        if inputs.spec.level_ranges is None and inputs.weighting is None:
            return _NONE
        needed = {
            "level_ranges": inputs.spec.level_ranges is not None,
            "weights": inputs.weighting is not None,
        }
        return frozenset(name for name, is_needed in needed.items() if is_needed)
    spec = inputs.spec
    needed = {
        "logit_clamp": spec.logit_clamp is not None,
        "soft_focal": spec.kind == "soft_focal",
        "weights": inputs.weights is not None,
    }
    return features_of(inputs.mask) | {name for name, is_needed in needed.items() if is_needed}
