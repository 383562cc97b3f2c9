"""Weights by way of a server: the bits and the errors of a local call."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cass_client import AsyncCassClient, CassClient, InvalidRequest, MaskRequest, ServerError
from cass_client.torch import RemoteCassLoss
from cass_core import (
    BoxBatch,
    CassLoss,
    LossSpec,
    MaskSpec,
    WeightSpec,
    compute_loss,
    generate_mask,
)
from tests.client.support.small_servers import MaskService, serving_with
from tests.support.compare import same
from tests.support.servers import serving

SIZE, MAPS = (64, 64), [(8, 8), (4, 4)]
BOXES = [[(4.0, 4, 20, 20), (8, 8, 60, 60)], [], [(30.0, 2, 50, 40)]]
REGIONS: dict[str, Any] = {
    "valid_region": [(0, 0, 64, 50), (0, 0, 30, 30), (4, 4, 60, 64)],
    "ignore": [[(0, 30, 64, 64)], [], [(0, 0, 9, 9), (40, 40, 50, 50)]],
    "box_weights": [[0.5, 2], [], [1]],
}
WEIGHTINGS: list[dict[str, Any]] = [
    {},
    {"weight_spec": WeightSpec("object", 0.25)},
    {"valid_region": REGIONS["valid_region"]},
    {"ignore": REGIONS["ignore"]},
    {"box_weights": REGIONS["box_weights"]},
    REGIONS | {"weight_spec": WeightSpec("object")},
]
every_weighting = pytest.mark.parametrize("weighting", WEIGHTINGS)


@every_weighting
@pytest.mark.parametrize("maps", [MAPS, MAPS[0]])
def test_masks(address: str, weighting: dict[str, Any], maps: Any) -> None:
    options: dict[str, Any] = {"return_weights": True, "return_owner": True} | weighting
    expected = generate_mask(BOXES, SIZE, maps, **options)
    assert len(expected) == 3
    with CassClient(address) as client:
        for _ in range(2):  # the second one finds what the server has kept of the first
            same(client.generate_mask(BOXES, SIZE, maps, **options), expected)
        same(client.generate_mask_future(BOXES, SIZE, maps, **options).result(60), expected)
        requests = [MaskRequest(BOXES, SIZE, maps, **options)] * 3
        for found in client.stream_masks(requests):
            same(found, expected)
        # Without, nothing has changed.
        same(client.generate_mask(BOXES, SIZE, maps, **weighting), expected[0])
        half = client.generate_mask(BOXES, SIZE, maps, dtype="float16", **options)
        same(half, generate_mask(BOXES, SIZE, maps, dtype="float16", **options))

    async def asynchronously() -> Any:
        async with AsyncCassClient(address) as client:
            return await client.generate_mask(BOXES, SIZE, maps, **options)

    same(asyncio.run(asynchronously()), expected)


@every_weighting
@pytest.mark.parametrize("reduction", ["none", "mean", "sum", "per_object"])
def test_losses_of_boxes(address: str, weighting: dict[str, Any], reduction: Any) -> None:
    logits = np.random.default_rng(1).normal(size=(3, 8, 8)).astype(np.float32)
    spec = LossSpec(kind="bce", reduction=reduction)
    mask, weights = generate_mask(BOXES, SIZE, MAPS[0], return_weights=True, **weighting)
    given = weights if weighting else None
    answer = compute_loss(logits, mask, spec, weights=given, num_boxes=3, return_grad=True)
    with CassClient(address) as client:
        found = client.compute_loss(
            logits, boxes=BOXES, image_size=SIZE, feature_map=MAPS[0], loss_spec=spec,
            return_grad=True, **weighting,
        )  # fmt: skip
        from_target = client.compute_loss(
            logits, mask, loss_spec=spec, weights=given, num_boxes=3, return_grad=True
        )
    for result in (found, from_target):
        same([result.loss, result.grad], [answer.loss, answer.grad])
        assert result.normalizer == answer.normalizer


@every_weighting
@pytest.mark.parametrize("reduction", ["none", "mean", "per_object"])
@pytest.mark.parametrize("levels", [1, 2])
def test_a_differentiable_loss(
    address: str, weighting: dict[str, Any], reduction: Any, levels: int
) -> None:
    weighting = dict(weighting)
    weight_spec = weighting.pop("weight_spec", None)
    specs: Any = MaskSpec(), LossSpec(reduction=reduction), weight_spec
    logits = [torch.linspace(-3, 3, 3 * h * w).reshape(3, h, w) for h, w in MAPS[:levels]]
    remote, local = ([part.clone().requires_grad_() for part in logits] for _ in range(2))
    with CassClient(address) as client:
        found = RemoteCassLoss(client, *specs)(remote, BOXES, SIZE, MAPS[:levels], **weighting)
    expected = CassLoss(*specs)(local, BOXES, SIZE, MAPS[:levels], **weighting)
    for value in (found, expected):
        total = sum(part.sum() for part in value) if reduction == "none" else value
        (3 * total).backward()
    torch.testing.assert_close(found, expected)
    for first, second in zip(remote, local, strict=True):
        torch.testing.assert_close(first.grad, second.grad)


def test_large_messages(address: str) -> None:
    """Large enough for their arrays to be taken out of the message before it is parsed."""
    generator = np.random.default_rng(3)
    corners = generator.uniform(0, 32, (4000, 2, 2)).astype(np.float32)
    boxes = BoxBatch(np.concatenate([corners[:, 0], corners[:, 0] + corners[:, 1]], 1), [4000])
    options: dict[str, Any] = {
        "return_weights": True, "ignore": boxes, "valid_region": [(0, 0, 60, 60)],
        "box_weights": generator.random(4000, np.float32), "weight_spec": WeightSpec("object"),
    }  # fmt: skip
    expected = generate_mask(boxes, SIZE, (200, 200), **options)
    weights = generator.random((1, 200, 200), np.float32)
    logits = expected[0] * 3 - 1
    with CassClient(address) as client:
        same(client.generate_mask(boxes, SIZE, (200, 200), **options), expected)
        found = client.compute_loss(logits, expected[0], weights=weights)
    assert found.loss == compute_loss(logits, expected[0], weights=weights).loss


def test_parts() -> None:
    """A batch beyond the server's limits: what depends on all of it is refused, the rest joined."""
    options: dict[str, Any] = {"return_weights": True} | REGIONS
    with serving("--max-images", "2") as server, CassClient(server.address) as client:
        expected = generate_mask(BOXES, SIZE, MAPS, **options)
        same(client.generate_mask(BOXES, SIZE, MAPS, **options), expected)
        with pytest.raises(InvalidRequest, match="the server's limit is 2"):
            client.generate_mask(BOXES, SIZE, MAPS, weight_spec=WeightSpec("object"), **options)
        logits = np.linspace(-3, 3, 192, dtype=np.float32).reshape(3, 8, 8)
        for reduction in ("sum", "per_object", "mean"):
            spec: Any = LossSpec(reduction=reduction)
            mask, weights = expected[0][0], expected[1][0]
            answer = compute_loss(logits, mask, spec, weights=weights, num_boxes=3)
            found = client.compute_loss(
                logits, mask, loss_spec=spec, weights=weights, num_boxes=3, return_grad=True
            )
            np.testing.assert_allclose(found.loss, answer.loss, rtol=1e-6)


def test_limits_cover_ignored_boxes() -> None:
    """Three boxes, and then eight ignored ones."""
    few, many = [[(0, 0, 1, 1)] * 7, [], []], [[], [(0, 0, 1, 1)] * 8, []]
    with serving("--max-boxes", "10") as server, CassClient(server.address) as client:
        client.generate_mask(BOXES, SIZE, MAPS, return_weights=True, ignore=few)
        together = [[], BOXES[0] + BOXES[2], []]
        with pytest.raises(InvalidRequest, match="11 boxes, the server's limit is 10"):
            client.generate_mask(together, SIZE, MAPS, return_weights=True, ignore=many)


def test_work_covers_ignored_boxes() -> None:
    """100 ignored boxes that reach all of an image."""
    ignore = [[(0, 0, 64, 64)] * 100, [], []]
    with serving("--max-work", "10000") as server, CassClient(server.address) as client:
        client.generate_mask(BOXES, SIZE, MAPS, return_weights=True)
        with pytest.raises(
            InvalidRequest, match="patches reached by all boxes, the server's limit"
        ):
            client.generate_mask(BOXES, SIZE, MAPS, return_weights=True, ignore=ignore)


def test_arrays_may_be_filled_anew(address: str) -> None:
    region, box_weights = np.float32(REGIONS["valid_region"]), np.float32([0.5, 2, 1])
    options: dict[str, Any] = {"valid_region": region, "box_weights": box_weights}
    expected = generate_mask(BOXES, SIZE, MAPS, return_weights=True, **options)
    with CassClient(address) as client:
        future = client.generate_mask_future(BOXES, SIZE, MAPS, return_weights=True, **options)
        region[:] = box_weights[:] = 0
        same(future.result(60), expected)


def test_a_server_that_does_not_know() -> None:
    with serving_with(MaskService()) as address, CassClient(address) as client:
        for weighting in WEIGHTINGS:
            with pytest.raises(ServerError, match="does not know weights, which the request"):
                client.generate_mask(BOXES, SIZE, MAPS, return_weights=True, **weighting)
        ones = np.ones((1, 4), np.float32)
        with pytest.raises(ServerError, match="does not know weights"):
            client.compute_loss(ones, ones, weights=ones)


def test_same_errors(address: str) -> None:
    """What a message can hold is refused there in the words of a local call."""
    bad: list[dict[str, Any]] = [
        {"valid_region": [(0, 0, 8, 8)]},
        {"ignore": [[]]},
        {"weight_spec": WeightSpec("object"), "spec": MaskSpec(merge="sum")},
    ]
    with CassClient(address) as client:
        for options in bad:
            with pytest.raises(InvalidRequest) as local:
                generate_mask(BOXES, SIZE, MAPS, return_weights=True, **options)
            with pytest.raises(InvalidRequest) as remote:
                client.generate_mask(BOXES, SIZE, MAPS, return_weights=True, **options)
            assert str(remote.value) == str(local.value)
        with pytest.raises(InvalidRequest, match=r"^weight_spec: and regions need boxes"):
            client.compute_loss(np.ones(4), np.ones(4), weight_spec=WeightSpec())


def test_conformance(address: str, shared: Path) -> None:
    cases = json.loads((shared / "conformance" / "regions.json").read_text())
    with CassClient(address) as client, np.load(shared / "conformance" / "regions.npz") as answers:
        for number, case in enumerate(cases):
            spec = MaskSpec(**case["options"], level_ranges=case["level_ranges"])
            options = {name: case[name] for name in ("valid_region", "ignore", "box_weights")}
            options["weight_spec"] = WeightSpec(case["balance"], case["background_weight"])
            scene = case["boxes"], tuple(case["image_size"]), case["feature_maps"]
            _, weights = client.generate_mask(*scene, spec, return_weights=True, **options)
            for level, found in enumerate(weights):
                safe = answers[f"safe_{number:03}_{level}"]
                expected = answers[f"weights_{number:03}_{level}"][safe]
                rtol = 1e-5 if case["exact"] else 0.05
                np.testing.assert_allclose(found[safe], expected, rtol=rtol, atol=1e-6)
            if len(weights) > 1 or not case["exact"]:
                continue
            logits = answers[f"logits_{number:03}_0"].astype(np.float32)
            result = client.compute_loss(
                logits, boxes=scene[0], image_size=scene[1], feature_map=scene[2][0],
                mask_spec=spec, loss_spec=LossSpec(**case["loss"]), return_grad=True, **options,
            )  # fmt: skip
            value = [result.loss, result.sum, result.normalizer]
            expected = [case["value"], case["sum"], case["normalizer"]]
            np.testing.assert_allclose(value, expected, rtol=1e-4, atol=1e-6)
            grad = answers[f"grad_{number:03}_0"]
            np.testing.assert_allclose(result.grad, grad, rtol=1e-4, atol=1e-6)
