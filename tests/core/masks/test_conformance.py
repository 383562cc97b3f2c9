"""All 120 conformance cases of masks, by the compiled loops and by the GPU's kernels."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cass_core import MaskSpec, generate_mask
from tests.core.support.paths import MakeMask, both_paths_of, compiled, interpreted

CASES = 120
Case = dict[str, Any]


@pytest.fixture(scope="session")
def cases(shared: Path) -> list[Case]:
    found: list[Case] = json.loads((shared / "conformance" / "masks.json").read_text())
    with np.load(shared / "conformance" / "masks.npz") as answers:
        for number, case in enumerate(found):
            case["mask"] = answers[f"mask_{number:03}"]
            case["safe"] = answers[f"safe_{number:03}"]
            name = f"owner_{number:03}"
            case["owner"] = answers.get(name, None)
    return found


def _spec(case: Case) -> MaskSpec:
    return MaskSpec(**case["options"])


def _made(make: MakeMask, case: Case, dtype: str = "float32", owner: bool = False) -> Any:
    return make(case["boxes"], case["images"], case["feature_map"], _spec(case), dtype, owner)


def test_there_are_120_cases_with_every_merge(cases: list[Case]) -> None:
    assert len(cases) == CASES
    assert {_spec(case).merge for case in cases} == {"max", "sum", "clipped_sum"}
    assert sum(case["owner"] is not None for case in cases) >= 60
    # Were everything unsafe, nothing below would be compared.
    assert sum(int(case["safe"].sum()) for case in cases) > 0.9 * sum(
        case["safe"].size for case in cases
    )


@both_paths_of(range(CASES))
def test_mask(cases: list[Case], make: MakeMask, number: int) -> None:
    case = cases[number]
    mask = _made(make, case)
    assert mask.dtype == np.float32
    assert mask.shape == case["mask"].shape
    safe = case["safe"]
    np.testing.assert_allclose(mask[safe], case["mask"][safe], rtol=0, atol=1e-5)


@both_paths_of(range(CASES))
def test_owner(cases: list[Case], make: MakeMask, number: int) -> None:
    case = cases[number]
    if case["owner"] is None:
        assert _spec(case).merge != "max"
        return
    mask, owner = _made(make, case, owner=True)
    assert owner.dtype == np.int32
    np.testing.assert_array_equal(owner[case["safe"]], case["owner"][case["safe"]])
    # Asking for the owner takes another loop, which must not change a bit.
    alone = _made(make, case)
    np.testing.assert_array_equal(mask.view(np.uint32), alone.view(np.uint32))


@both_paths_of(range(0, CASES, 10))
def test_float16_is_the_rounded_mask(cases: list[Case], make: MakeMask, number: int) -> None:
    wide = _made(make, cases[number])
    half = _made(make, cases[number], "float16")
    np.testing.assert_array_equal(half.view(np.uint16), wide.astype(np.float16).view(np.uint16))


@pytest.mark.slow
@pytest.mark.parametrize("number", range(0, CASES, 10))
def test_bfloat16_is_the_rounded_mask(cases: list[Case], number: int) -> None:
    case = cases[number]
    boxes = [torch.tensor(b, dtype=torch.float32).reshape(-1, 4) for b in case["boxes"]]
    mask = generate_mask(
        boxes, case["images"], case["feature_map"], _spec(case), dtype=torch.bfloat16
    )
    expected = torch.from_numpy(_made(compiled, case)).to(torch.bfloat16)
    assert torch.equal(mask.view(torch.int16), expected.view(torch.int16))
    # Triton's interpreter cuts bits off where a GPU rounds.
    wide = _made(interpreted, case)
    np.testing.assert_allclose(_made(interpreted, case, "bfloat16"), wide, rtol=2**-7, atol=1e-38)


@both_paths_of(range(1, CASES, 9))
def test_uint8_is_the_rounded_mask(cases: list[Case], make: MakeMask, number: int) -> None:
    case = cases[number]
    if _spec(case).merge == "sum":
        case = case | {"options": case["options"] | {"merge": "clipped_sum"}}
    wide = _made(make, case)
    small = _made(make, case, "uint8")
    assert small.dtype == np.uint8
    scaled = wide * np.float32(255)
    np.testing.assert_array_equal(small, np.rint(scaled).astype(np.uint8))
    assert len(np.unique(small)) > 2 or not wide.any() or set(np.unique(wide)) <= {0, 1}
