"""The conformance cases of losses and their gradients, on all three paths."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cass_core import LossSpec
from tests.core.support import reference
from tests.core.support.loss_paths import KINDS, TakeLoss, all_paths

CASES = 8
Case = dict[str, Any]


@pytest.fixture(scope="session")
def cases(shared: Path) -> list[Case]:
    found: list[Case] = json.loads((shared / "conformance" / "losses.json").read_text())
    with np.load(shared / "conformance" / "losses.npz") as answers:
        for number, case in enumerate(found):
            case |= {
                name: answers[f"{name}_{number:02}"]
                for name in ("logits", "target", "loss", "grad")
            }
    return found


def _spec(case: Case, reduction: Any = "none") -> LossSpec:
    return LossSpec(kind=case["kind"], **case["parameters"], reduction=reduction)


def test_there_are_8_cases_of_every_kind(cases: list[Case]) -> None:
    assert len(cases) == CASES
    assert {case["kind"] for case in cases} == set(KINDS) - {"soft_focal"}
    assert all(case["logits"].size > 400 for case in cases)


@all_paths
@pytest.mark.parametrize("number", range(CASES))
def test_float32(cases: list[Case], take: TakeLoss, number: int) -> None:
    case = cases[number]
    logits, target = (case[name].astype(np.float32) for name in ("logits", "target"))
    result = take(logits, target, _spec(case))
    assert result.loss.dtype == result.grad.dtype == np.float32
    np.testing.assert_allclose(result.loss, case["loss"], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(result.grad, case["grad"], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(result.sum, case["loss"].sum(), rtol=1e-5)


@all_paths
@pytest.mark.parametrize("number", range(CASES))
def test_float64(cases: list[Case], take: TakeLoss, number: int) -> None:
    case = cases[number]
    result = take(case["logits"], case["target"], _spec(case))
    assert result.loss.dtype == result.grad.dtype == np.float64
    np.testing.assert_allclose(result.loss, case["loss"], rtol=1e-11, atol=1e-13)
    # The stored gradients are central differences.
    np.testing.assert_allclose(result.grad, case["grad"], rtol=1e-7, atol=1e-8)
    np.testing.assert_allclose(result.sum, case["loss"].sum(), rtol=1e-12)


@all_paths
@pytest.mark.parametrize("number", range(CASES))
def test_mean(cases: list[Case], take: TakeLoss, number: int) -> None:
    case = cases[number]
    result = take(case["logits"], case["target"], _spec(case, "mean"))
    np.testing.assert_allclose(result.loss, case["loss"].mean(), rtol=1e-12)
    np.testing.assert_allclose(result.grad, case["grad"] / case["loss"].size, rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize("number", range(CASES))
def test_the_reference_agrees(cases: list[Case], number: int) -> None:
    # The other files lean on it where the conformance cases do not reach.
    case = cases[number]
    found = [
        reference.loss(case["kind"], float(s), float(y), **case["parameters"])
        for s, y in zip(case["logits"], case["target"], strict=True)
    ]
    np.testing.assert_allclose(found, case["loss"], rtol=1e-11, atol=1e-13)
