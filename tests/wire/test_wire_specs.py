"""Specs as messages and back."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cass import wire
from cass.v1 import cass_pb2 as pb
from cass_core import InvalidRequest, LossSpec, MaskSpec

POSITIVE = st.floats(1e-3, 1e6)
AT_LEAST_0 = st.just(0.0) | POSITIVE


@st.composite
def mask_specs(draw: st.DrawFn) -> MaskSpec:
    anisotropic = draw(st.booleans())
    sigma = POSITIVE | st.tuples(POSITIVE, POSITIVE) if anisotropic else POSITIVE
    low, high = sorted(draw(st.tuples(POSITIVE, POSITIVE)))
    return MaskSpec(
        patch_size=draw(st.integers(1, 2**31 - 1)),
        expansion_ratio=draw(AT_LEAST_0),
        min_size=draw(AT_LEAST_0),
        use_anisotropic_gaussian=anisotropic,
        decay_type=draw(st.sampled_from(["gaussian", "linear"])),
        base_sigma=draw(sigma),
        temperature=draw(st.sampled_from(["fixed", "size_scaled", "small_gain"])),
        small_target_gain=draw(POSITIVE),
        small_target_threshold=draw(AT_LEAST_0),
        size_reference=draw(POSITIVE),
        size_factor_min=low,
        size_factor_max=high,
        use_subpixel_offset=draw(st.booleans()),
        merge=draw(st.sampled_from(["max", "sum", "clipped_sum"])),
        min_radius=draw(AT_LEAST_0),
    )


LOSS_SPECS = st.builds(
    LossSpec,
    kind=st.sampled_from(["mse", "bce", "focal", "cornernet", "quality_focal", "varifocal"]),
    alpha=AT_LEAST_0,
    beta=AT_LEAST_0,
    gamma=AT_LEAST_0,
    weight=AT_LEAST_0,
    reduction=st.sampled_from(["none", "mean", "sum", "per_object"]),
)


@given(mask_specs())
def test_mask_spec_round_trip(spec: MaskSpec) -> None:
    data = wire.mask_spec_message(spec).SerializeToString()
    assert wire.mask_spec(pb.MaskSpec.FromString(data)) == spec


@given(LOSS_SPECS)
def test_loss_spec_round_trip(spec: LossSpec) -> None:
    data = wire.loss_spec_message(spec).SerializeToString()
    assert wire.loss_spec(pb.LossSpec.FromString(data)) == spec


def test_unset_fields_have_the_defaults() -> None:
    assert wire.mask_spec(pb.MaskSpec()) == MaskSpec()
    assert wire.loss_spec(pb.LossSpec()) == LossSpec()


@pytest.mark.parametrize(
    ("message", "changed"),
    [
        (pb.MaskSpec(patch_size=1), MaskSpec(patch_size=1)),
        (pb.MaskSpec(expansion_ratio=0), MaskSpec(expansion_ratio=0)),
        (pb.MaskSpec(use_subpixel_offset=False), MaskSpec(use_subpixel_offset=False)),
        (pb.MaskSpec(base_sigma=[0.25]), MaskSpec(base_sigma=0.25)),
        (pb.MaskSpec(base_sigma=[0.25, 2]), MaskSpec(base_sigma=(0.25, 2))),
        (pb.MaskSpec(decay_type=2), MaskSpec(decay_type="linear")),
        (pb.MaskSpec(temperature=1), MaskSpec(temperature="fixed")),
        (pb.MaskSpec(temperature=2), MaskSpec(temperature="size_scaled")),
        (pb.MaskSpec(merge=2), MaskSpec(merge="sum")),
        (pb.MaskSpec(merge=3), MaskSpec(merge="clipped_sum")),
    ],
)
def test_one_set_field(message: pb.MaskSpec, changed: MaskSpec) -> None:
    assert wire.mask_spec(message) == changed


@pytest.mark.parametrize(
    ("message", "changed"),
    [
        (pb.LossSpec(kind=1), LossSpec(kind="mse")),
        (pb.LossSpec(kind=2), LossSpec(kind="bce")),
        (pb.LossSpec(kind=4), LossSpec(kind="cornernet")),
        (pb.LossSpec(kind=5), LossSpec(kind="quality_focal")),
        (pb.LossSpec(kind=6), LossSpec(kind="varifocal")),
        (pb.LossSpec(weight=0), LossSpec(weight=0)),
        (pb.LossSpec(reduction=1), LossSpec(reduction="none")),
        (pb.LossSpec(reduction=3), LossSpec(reduction="sum")),
        (pb.LossSpec(reduction=4), LossSpec(reduction="per_object")),
    ],
)
def test_one_set_field_of_a_loss(message: pb.LossSpec, changed: LossSpec) -> None:
    assert wire.loss_spec(message) == changed


@pytest.mark.parametrize(
    ("message", "error"),
    [
        (pb.MaskSpec(decay_type=9), "mask_spec.decay_type: has the unknown value 9"),
        (pb.MaskSpec(temperature=-1), "mask_spec.temperature: has the unknown value -1"),
        (pb.MaskSpec(merge=4), "mask_spec.merge: has the unknown value 4"),
        (pb.LossSpec(kind=7), "loss_spec.kind: has the unknown value 7"),
        (pb.LossSpec(reduction=5), "loss_spec.reduction: has the unknown value 5"),
        (
            pb.MaskSpec(patch_size=0),
            "mask_spec.patch_size: must be a whole number from 1 to 2147483647, got 0",
        ),
        (
            pb.MaskSpec(base_sigma=[1, 2, 3, 4]),
            "mask_spec.base_sigma: must be one number or a pair (x, y), got (1.0, 2.0, 3.0)",
        ),
        (
            pb.MaskSpec(min_radius=float("nan")),
            "mask_spec.min_radius: must be a finite number at least 0, got nan",
        ),
        (
            pb.LossSpec(alpha=-1),
            "loss_spec.alpha: must be a finite number at least 0, got -1.0",
        ),
    ],
)
def test_refused(message: Any, error: str) -> None:
    read: Any = wire.mask_spec if isinstance(message, pb.MaskSpec) else wire.loss_spec
    with pytest.raises(InvalidRequest) as caught:
        read(message)
    assert str(caught.value) == error
