"""The targets and losses under comparison, by name."""

from __future__ import annotations

from dataclasses import dataclass

from cass_core.specs import LossSpec, MaskSpec


@dataclass(frozen=True, slots=True)
class Variant:
    """A target and a loss.

    Attributes:
        name: as the tables call it.
        mask: how the target is made; a patch is one cell, whatever the preset says.
        loss: the loss on the predictor's logits.
        object_weighted: whether every object of a batch has the same share of the loss of all
            object patches, however many of them it has; see `training.train.object_weights`.
    """

    name: str
    mask: MaskSpec
    loss: LossSpec
    object_weighted: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "mask", self.mask.replace(patch_size=1))


BASELINE = "baseline"
_BASE_MASK, _BASE_LOSS = MaskSpec.baseline(), LossSpec.baseline()
_BEST_MASK, _BEST_LOSS = MaskSpec.improved(), LossSpec.improved()
_BCE = LossSpec(kind="bce")


def _variants() -> tuple[Variant, ...]:
    # The least radius belongs to the anisotropic falloff: the audit clamps its divisors.
    anisotropic = {"use_anisotropic_gaussian": True, "min_radius": 1.0}
    isotropic = {"use_anisotropic_gaussian": False, "min_radius": 0.0}
    base, best = _BASE_MASK.replace, _BEST_MASK.replace
    return (
        Variant(BASELINE, _BASE_MASK, _BASE_LOSS),
        Variant("baseline + anisotropic", base(**anisotropic), _BASE_LOSS),
        Variant("baseline + size_scaled", base(temperature="size_scaled"), _BASE_LOSS),
        Variant("baseline + small_gain", base(temperature="small_gain"), _BASE_LOSS),
        Variant("baseline + subpixel", base(use_subpixel_offset=True), _BASE_LOSS),
        Variant("baseline + focal", _BASE_MASK, _BEST_LOSS),
        Variant("improved", _BEST_MASK, _BEST_LOSS),
        Variant("improved - anisotropic", best(**isotropic), _BEST_LOSS),
        Variant("improved - small_gain", best(temperature="fixed"), _BEST_LOSS),
        Variant("improved - subpixel", best(use_subpixel_offset=False), _BEST_LOSS),
        Variant("improved - focal", _BEST_MASK, _BASE_LOSS),
        Variant("baseline, bce", _BASE_MASK, _BCE),
        Variant("baseline, cornernet", _BASE_MASK, LossSpec(kind="cornernet")),
        Variant("baseline, quality_focal", _BASE_MASK, LossSpec(kind="quality_focal")),
        Variant("baseline, varifocal", _BASE_MASK, LossSpec(kind="varifocal")),
        Variant("baseline, linear decay", base(decay_type="linear"), _BASE_LOSS),
        # A plain sum exceeds 1 where boxes overlap, and no loss takes a target above 1.
        Variant("baseline, clipped_sum", base(merge="clipped_sum"), _BASE_LOSS),
        # Candidates beyond the audit. A band of at least one patch: no side is below one patch,
        # and the band is as wide as the side.
        Variant("improved, bce", _BEST_MASK, _BCE),
        Variant("wide band, bce", best(expansion_ratio=1.0), _BCE),
        Variant("no band, bce", best(expansion_ratio=0.0), _BCE),
        Variant("object weights, bce", _BEST_MASK, _BCE, object_weighted=True),
    )


VARIANTS: dict[str, Variant] = {variant.name: variant for variant in _variants()}
