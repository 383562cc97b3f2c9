"""The targets and losses under comparison, by name."""

from __future__ import annotations

from dataclasses import dataclass

from cass_core.specs import LossSpec, MaskSpec, WeightSpec
from cass_lab.data.objects import LEVEL_RANGES

BASELINE = "baseline"


@dataclass(frozen=True, slots=True)
class Variant:
    """A target, a loss, and what a patch weighs in it.

    Attributes:
        name: as the tables call it.
        mask: how the target is made; a patch is one cell, whatever the preset says.
        loss: the loss on the predictor's logits.
        weights: what a patch weighs in the loss.
        levels: feature maps that the predictor scores, each half as large as the one before.
        changes: the variant that this one changes in one respect; reports compare the two.
    """

    name: str
    mask: MaskSpec
    loss: LossSpec
    weights: WeightSpec = WeightSpec()  # noqa: RUF009 - frozen
    levels: int = 1
    changes: str = BASELINE

    def __post_init__(self) -> None:
        object.__setattr__(self, "mask", self.mask.replace(patch_size=1))


_BASE_MASK, _BASE_LOSS = MaskSpec.baseline(), LossSpec.baseline()
_BEST_MASK, _BEST_LOSS = MaskSpec.improved(), LossSpec.improved()
_BCE = LossSpec(kind="bce")
_DEFAULT = LossSpec(kind="cornernet")
_BEST, _BEST_BCE, _LEVELS = "improved, cornernet", "improved, bce", "three levels, cornernet"
_OBJECT = WeightSpec(balance="object")
_FAINT = WeightSpec(background_weight=0.25)


def _variants() -> tuple[Variant, ...]:
    # The least radius belongs to the anisotropic falloff: the audit clamps its divisors.
    anisotropic = {"use_anisotropic_gaussian": True, "min_radius": 1.0}
    isotropic = {"use_anisotropic_gaussian": False, "min_radius": 0.0}
    ranged = _BEST_MASK.replace(level_ranges=LEVEL_RANGES)
    clamped = _BCE.replace(logit_clamp=8.0)
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
        Variant("wide band, bce", best(expansion_ratio=1.0), _BCE),
        Variant("no band, bce", best(expansion_ratio=0.0), _BCE),
        Variant(_BEST_BCE, _BEST_MASK, _BCE),
        Variant("object weights, bce", _BEST_MASK, _BCE, _OBJECT, changes=_BEST_BCE),
        # Of cornernet's logits next to none reach 8, of these every third.
        Variant("logit_clamp 8, bce", _BEST_MASK, clamped, changes=_BEST_BCE),
        Variant("improved, soft_focal", _BEST_MASK, LossSpec(kind="soft_focal"), changes=_BEST_BCE),
        # Options on the improved target with the loss that came first.
        Variant(_BEST, _BEST_MASK, _DEFAULT),
        Variant("object weights, cornernet", _BEST_MASK, _DEFAULT, _OBJECT, changes=_BEST),
        Variant("background 0.25, cornernet", _BEST_MASK, _DEFAULT, _FAINT, changes=_BEST),
        Variant(_LEVELS, _BEST_MASK, _DEFAULT, levels=3),
        Variant("level_ranges, cornernet", ranged, _DEFAULT, levels=3, changes=_LEVELS),
        Variant("cas_detr", MaskSpec.cas_detr(), LossSpec.cas_detr(), changes=_BEST),
    )


VARIANTS: dict[str, Variant] = {variant.name: variant for variant in _variants()}
