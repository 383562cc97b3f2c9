"""The conformance cases of regions, weights and levels, by the compiled loops and the kernels."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cass_core import CassLoss, LossSpec, MaskSpec, WeightSpec, compute_loss
from tests.core.support import reference
from tests.core.support.paths import MakeMask, both_paths_of, compiled
from tests.support.interpreted import kernels

CASES = 48
TOLERANCE = {"rtol": 1e-4, "atol": 1e-6}
Case = dict[str, Any]


@pytest.fixture(scope="session")
def cases(shared: Path) -> list[Case]:
    found: list[Case] = json.loads((shared / "conformance" / "regions.json").read_text())
    with np.load(shared / "conformance" / "regions.npz") as answers:
        for number, case in enumerate(found):
            levels = range(len(case["feature_maps"]))
            for name in ("mask", "weights", "logits", "grad", "safe"):
                case[name] = [answers[f"{name}_{number:03}_{level}"] for level in levels]
    return found


def mask_spec(case: Case) -> MaskSpec:
    return MaskSpec(**case["options"], level_ranges=case["level_ranges"])


def weight_spec(case: Case) -> WeightSpec:
    return WeightSpec(case["balance"], case["background_weight"])


def regions(case: Case) -> dict[str, Any]:
    return {name: case[name] for name in ("valid_region", "ignore", "box_weights")}


def made(make: MakeMask, case: Case) -> Any:
    return make(
        case["boxes"], tuple(case["image_size"]), case["feature_maps"], mask_spec(case),
        return_weights=True, weight_spec=weight_spec(case), **regions(case),
    )  # fmt: skip


def agrees(case: Case, value: float, total: float, normalizer: float) -> None:
    found, expected = [value, total, normalizer], [case[n] for n in ("value", "sum", "normalizer")]
    if case["exact"]:
        np.testing.assert_allclose(found, expected, **TOLERANCE)


def gradients_agree(case: Case, grads: list[Any]) -> None:
    for grad, expected, weights in zip(grads, case["grad"], case["weights"], strict=True):
        if case["exact"]:
            np.testing.assert_allclose(grad, expected, **TOLERANCE)
            assert not grad[weights == 0].any()


def test_there_are_48_cases_of_everything(cases: list[Case]) -> None:
    assert len(cases) == CASES
    assert sum(case["exact"] for case in cases) >= 38
    for name in ("valid_region", "ignore", "box_weights", "level_ranges"):
        assert {case[name] is None for case in cases} == {True, False}
    assert {case["balance"] for case in cases} == {"patch", "object"}
    assert {case["loss"]["logit_clamp"] for case in cases} >= {None, 8.0}


@both_paths_of(range(CASES))
def test_masks_and_weights(cases: list[Case], make: MakeMask, number: int) -> None:
    case = cases[number]
    for level, (mask, weights) in enumerate(zip(*made(make, case), strict=True)):
        assert weights.dtype == np.float32
        safe = case["safe"][level]
        np.testing.assert_allclose(mask[safe], case["mask"][level][safe], rtol=0, atol=1e-5)
        # An unsafe patch may count for an object: its neighbours' shares move a little.
        rtol = 1e-5 if case["exact"] else 0.05
        np.testing.assert_allclose(
            weights[safe], case["weights"][level][safe], rtol=rtol, atol=1e-6
        )


@pytest.mark.parametrize("number", range(CASES))
def test_loss_of_masks(cases: list[Case], number: int) -> None:
    case = cases[number]
    masks, weights = made(compiled, case)
    boxes = sum(map(len, case["boxes"]))
    logits = [level.astype(np.float32) for level in case["logits"]]
    result = compute_loss(
        logits, masks, LossSpec(**case["loss"]), weights=weights, num_boxes=boxes, return_grad=True
    )
    agrees(case, float(result.loss), float(result.sum), result.normalizer)
    gradients_agree(case, result.grad)


@pytest.mark.parametrize("number", range(CASES))
def test_loss_of_boxes(cases: list[Case], number: int) -> None:
    cass_loss_agrees(cases[number])


@pytest.mark.parametrize(
    "number", [pytest.param(n, marks=[pytest.mark.slow] * (n % 12 > 0)) for n in range(CASES)]
)
def test_loss_of_boxes_by_the_kernels(cases: list[Case], number: int) -> None:
    with kernels():
        cass_loss_agrees(cases[number])


def cass_loss_agrees(case: Case) -> None:
    loss = CassLoss(mask_spec(case), LossSpec(**case["loss"]), weight_spec(case))
    levels = [torch.tensor(level, dtype=torch.float32).requires_grad_() for level in case["logits"]]
    row = torch.cat([level.flatten(1) for level in levels], dim=1)
    maps = [tuple(pair) for pair in case["feature_maps"]]
    boxes = [np.asarray(of_image, np.float32).reshape(-1, 4) for of_image in case["boxes"]]
    value = loss(row, boxes, tuple(case["image_size"]), maps, **regions(case))
    value.backward()
    agrees(case, value.item(), case["sum"], case["normalizer"])
    gradients_agree(case, [level.grad.numpy() for level in levels if level.grad is not None])


@pytest.mark.parametrize("number", range(CASES))
def test_the_reference_agrees(cases: list[Case], number: int) -> None:
    """Which the other tests lean on."""
    case = cases[number]
    found = reference.weights(
        case["boxes"], [tuple(case["image_size"])] * len(case["boxes"]), case["feature_maps"],
        case["options"] | {"level_ranges": case["level_ranges"]},
        balance=case["balance"], background_weight=case["background_weight"], **regions(case),
    )  # fmt: skip
    for weights, expected, safe in zip(found.values, case["weights"], case["safe"], strict=True):
        rtol = 1e-6 if case["exact"] else 0.05
        np.testing.assert_allclose(weights[safe], expected[safe], rtol=rtol)
