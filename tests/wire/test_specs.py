"""Specs as messages and back."""

from __future__ import annotations

import dataclasses
from typing import Any, get_args, get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cass import specs
from cass.v1 import cass_pb2 as pb
from cass_core import InvalidRequest, LossSpec, MaskSpec
from cass_core.specs import LossKind

POSITIVE = st.floats(0, exclude_min=True, allow_infinity=False)
AT_LEAST_0 = st.just(0.0) | POSITIVE
INF = float("inf")
RANGES = st.tuples(AT_LEAST_0, POSITIVE | st.just(float("inf"))).filter(lambda r: r[0] < r[1])


@st.composite
def mask_specs(draw: st.DrawFn) -> MaskSpec:
    anisotropic = draw(st.booleans())
    pairs = st.tuples(POSITIVE, POSITIVE) if anisotropic else POSITIVE.map(lambda s: (s, s))
    low, high = sorted(draw(st.tuples(POSITIVE, POSITIVE)))
    return MaskSpec(
        patch_size=draw(st.integers(1, 2**31 - 1)),
        expansion_ratio=draw(AT_LEAST_0),
        min_size=draw(AT_LEAST_0),
        use_anisotropic_gaussian=anisotropic,
        decay_type=draw(st.sampled_from(["gaussian", "linear"])),
        base_sigma=draw(POSITIVE | pairs),
        temperature=draw(st.sampled_from(["fixed", "size_scaled", "small_gain"])),
        small_target_gain=draw(POSITIVE),
        small_target_threshold=draw(AT_LEAST_0),
        size_reference=draw(POSITIVE),
        size_factor_min=low,
        size_factor_max=high,
        use_subpixel_offset=draw(st.booleans()),
        merge=draw(st.sampled_from(["max", "sum", "clipped_sum"])),
        min_radius=draw(AT_LEAST_0),
        level_ranges=draw(st.none() | st.lists(RANGES, min_size=1, max_size=3).map(tuple)),
    )


LOSS_SPECS = st.builds(
    LossSpec,
    kind=st.sampled_from(get_args(LossKind)),
    alpha=AT_LEAST_0,
    beta=AT_LEAST_0,
    gamma=AT_LEAST_0,
    weight=AT_LEAST_0,
    reduction=st.sampled_from(["none", "mean", "sum", "per_object"]),
    logit_clamp=st.none() | POSITIVE,
)


@given(mask_specs())
def test_mask_spec_round_trip(spec: MaskSpec) -> None:
    data = specs.mask_spec_message(spec).SerializeToString()
    assert specs.mask_spec(pb.MaskSpec.FromString(data)) == spec


@given(LOSS_SPECS)
def test_loss_spec_round_trip(spec: LossSpec) -> None:
    data = specs.loss_spec_message(spec).SerializeToString()
    assert specs.loss_spec(pb.LossSpec.FromString(data)) == spec


def spec_of(message: Any) -> MaskSpec | LossSpec:
    is_mask = isinstance(message, pb.MaskSpec)
    return specs.mask_spec(message) if is_mask else specs.loss_spec(message)


def test_unset_fields_have_the_defaults() -> None:
    assert specs.mask_spec(pb.MaskSpec()) == MaskSpec()
    assert specs.loss_spec(pb.LossSpec()) == LossSpec()


@pytest.mark.parametrize("spec", [MaskSpec(), LossSpec()])
def test_every_field_is_sent_and_named_alike(spec: MaskSpec | LossSpec) -> None:
    message = _message(spec)
    assert {field.name for field, _ in message.ListFields()} == {
        field.name for field in dataclasses.fields(spec) if getattr(spec, field.name) is not None
    }
    assert len(message.DESCRIPTOR.fields) == len(dataclasses.fields(spec))


def _message(spec: MaskSpec | LossSpec) -> Any:
    if isinstance(spec, MaskSpec):
        return specs.mask_spec_message(spec)
    return specs.loss_spec_message(spec)


@pytest.mark.parametrize(
    ("spec", "name"),
    [
        (MaskSpec(), "decay_type"),
        (MaskSpec(), "temperature"),
        (MaskSpec(), "merge"),
        (LossSpec(), "kind"),
        (LossSpec(), "reduction"),
    ],
)
def test_enum_names_map_one_to_one(spec: MaskSpec | LossSpec, name: str) -> None:
    """DECAY_TYPE_LINEAR is `linear`, and so on; 0 alone has no name of its own."""
    choices = get_args(get_type_hints(type(spec))[name])
    enum = type(_message(spec)).DESCRIPTOR.fields_by_name[name].enum_type
    prefix = enum.values_by_number[0].name.removesuffix("UNSPECIFIED")
    numbers = {v.name.removeprefix(prefix).lower(): v.number for v in enum.values if v.number}
    assert set(numbers) == set(choices)
    for choice in choices:
        changed = spec.replace(**{name: choice})
        assert getattr(_message(changed), name) == numbers[choice]
        assert spec_of(type(_message(spec))(**{name: numbers[choice]})) == changed


@pytest.mark.parametrize(
    ("message", "changed"),
    [
        (pb.MaskSpec(patch_size=1), MaskSpec(patch_size=1)),
        (pb.MaskSpec(expansion_ratio=0), MaskSpec(expansion_ratio=0)),
        (pb.MaskSpec(use_subpixel_offset=False), MaskSpec(use_subpixel_offset=False)),
        (pb.MaskSpec(base_sigma=[]), MaskSpec()),
        (pb.MaskSpec(base_sigma=[0.25]), MaskSpec(base_sigma=0.25)),
        (pb.MaskSpec(base_sigma=[0.25, 2]), MaskSpec(base_sigma=(0.25, 2))),
        (pb.MaskSpec(temperature=1), MaskSpec(temperature="fixed")),
        (pb.LossSpec(weight=0), LossSpec(weight=0)),
        (pb.LossSpec(logit_clamp=8), LossSpec(logit_clamp=8)),
        (
            pb.MaskSpec(level_ranges=[pb.LevelRange(high=9), pb.LevelRange(low=9, high=INF)]),
            MaskSpec(level_ranges=((0, 9), (9, INF))),
        ),
    ],
)
def test_one_set_field(message: Any, changed: MaskSpec | LossSpec) -> None:
    assert spec_of(message) == changed


SIDES = "must be a whole number from 1 to 2147483647"
SIGMA = "must be one number or a pair (x, y), got (1.0, 2.0, 3.0)"


@pytest.mark.parametrize(
    ("message", "error"),
    [
        (pb.MaskSpec(decay_type=9), "decay_type: has the unknown value 9"),
        (pb.MaskSpec(temperature=-1), "temperature: has the unknown value -1"),
        (pb.MaskSpec(merge=4), "merge: has the unknown value 4"),
        (pb.LossSpec(kind=8), "kind: has the unknown value 8"),
        (pb.LossSpec(reduction=5), "reduction: has the unknown value 5"),
        (pb.MaskSpec(patch_size=0), f"patch_size: {SIDES}, got 0"),
        (pb.MaskSpec(patch_size=2**31), f"patch_size: {SIDES}, got 2147483648"),
        (pb.MaskSpec(base_sigma=[1, 2, 3]), f"base_sigma: {SIGMA}"),
        (pb.MaskSpec(base_sigma=[1, 2, 3, 4]), f"base_sigma: {SIGMA}"),
        (pb.MaskSpec(base_sigma=[0]), "base_sigma: must be a finite number above 0, got 0.0"),
        (
            pb.MaskSpec(base_sigma=[1, 2], use_anisotropic_gaussian=False),
            "base_sigma: must be one number where use_anisotropic_gaussian is False",
        ),
        (pb.MaskSpec(size_factor_min=3), "size_factor_max: is smaller than size_factor_min (3.0)"),
        (
            pb.MaskSpec(min_radius=float("nan")),
            "min_radius: must be a finite number at least 0, got nan",
        ),
        (pb.LossSpec(alpha=-1), "alpha: must be a finite number at least 0, got -1.0"),
    ],
)
def test_refused(message: Any, error: str) -> None:
    prefix = "mask_spec" if isinstance(message, pb.MaskSpec) else "loss_spec"
    with pytest.raises(InvalidRequest) as caught:
        spec_of(message)
    assert str(caught.value) == f"{prefix}.{error}"


@pytest.mark.parametrize("bad", [-1.0, float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize(
    "name",
    [name for name, kind in get_type_hints(MaskSpec).items() if kind is float],
)
def test_out_of_range_is_refused_as_locally(name: str, bad: float) -> None:
    with pytest.raises(InvalidRequest) as remote:
        specs.mask_spec(pb.MaskSpec(**{name: bad}))
    with pytest.raises(InvalidRequest) as local:
        MaskSpec(**{name: bad})
    assert (remote.value.field, remote.value.reason) == (f"mask_spec.{name}", local.value.reason)
