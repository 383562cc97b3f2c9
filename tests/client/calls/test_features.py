"""Requests that need what a server may not know: a clear error, never a wrong answer."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from cass_client import CassClient, FallbackWarning, MaskRequest, ServerError
from cass_core import LossSpec, MaskSpec, compute_loss, generate_mask
from tests.client.support.small_servers import MaskService, serving_with

BOXES, SIZE, MAPS = [[(4.0, 4, 20, 20), (8, 8, 60, 60)]], (64, 64), [(8, 8), (4, 4)]
RANGES = MaskSpec(level_ranges=((0, 20), (20, 1e9)))
LOGITS = np.linspace(-9, 9, 64, dtype=np.float32).reshape(1, 8, 8)


def test_a_server_that_does_not_know() -> None:
    service = MaskService()  # it says nothing of features
    with serving_with(service) as address, CassClient(address) as client:
        for _ in range(2):
            with pytest.raises(ServerError, match=r"does not know level_ranges, which the request"):
                client.generate_mask(BOXES, SIZE, MAPS, RANGES)
        with pytest.raises(ServerError, match="does not know level_ranges"):
            list(client.stream_masks([MaskRequest(BOXES, SIZE, MAPS, RANGES)]))
        spec = LossSpec(kind="soft_focal", logit_clamp=8)
        with pytest.raises(ServerError, match="does not know logit_clamp, soft_focal"):
            client.compute_loss(LOGITS, np.ones_like(LOGITS), loss_spec=spec)
        with pytest.raises(ServerError, match="does not know level_ranges"):
            client.compute_loss(
                LOGITS, boxes=BOXES, image_size=SIZE, feature_map=(8, 8),
                mask_spec=RANGES.of_level(0),
            )  # fmt: skip
        assert service.calls == 0
        assert client.info().features == ()
        client.generate_mask(BOXES, SIZE, MAPS)
        assert service.calls == 1


def test_the_fallback_does_know() -> None:
    with serving_with(MaskService()) as address:
        client = CassClient(address, fallback="local")
        with pytest.warns(FallbackWarning, match="does not know level_ranges"):
            found = client.generate_mask(BOXES, SIZE, MAPS, RANGES)
    same(found, generate_mask(BOXES, SIZE, MAPS, RANGES))


def same(found: Any, expected: Any) -> None:
    for mask, answer in zip(found, expected, strict=True):
        np.testing.assert_array_equal(mask, answer)


def test_a_server_that_knows(address: str) -> None:
    expected = generate_mask(BOXES, SIZE, MAPS, RANGES)
    with CassClient(address) as client:
        same(client.generate_mask(BOXES, SIZE, MAPS, RANGES), expected)
        for found in client.stream_masks([MaskRequest(BOXES, SIZE, MAPS, RANGES)] * 2):
            same(found, expected)
        spec = LossSpec(kind="soft_focal", logit_clamp=3)
        target = np.full_like(LOGITS, 0.5)
        found = client.compute_loss(LOGITS, target, loss_spec=spec, return_grad=True)
        answer = compute_loss(LOGITS, target, spec, return_grad=True)
        assert found.loss == answer.loss
        np.testing.assert_array_equal(found.grad, answer.grad)
        assert {"level_ranges", "logit_clamp", "soft_focal"} <= set(client.info().features)
