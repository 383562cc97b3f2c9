"""What a loss request says besides its arrays arrives: each option, and what is not asked for."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from cass_client import CassClient, LossSpec, MaskSpec
from cass_core import compute_loss, generate_mask
from cass_core.synthetic import street_boxes
from tests.support.compare import same

SIZE, MAP = (96, 160), (12, 20)
FINE = MaskSpec(patch_size=1)
BOXES = street_boxes(2, 6, image_size=SIZE, seed=5)
LOGITS = np.random.default_rng(3).normal(-1, 3, (2, *MAP)).astype(np.float32)
FROM_BOXES: dict[str, Any] = {
    "boxes": BOXES,
    "image_size": SIZE,
    "feature_map": MAP,
    "mask_spec": FINE,
}


@pytest.mark.parametrize(
    "changes",
    [
        {"alpha": 1.5},
        {"beta": 3.0},
        {"kind": "cornernet", "alpha": 3.0},
        {"kind": "cornernet", "beta": 2.0},
        {"kind": "quality_focal", "gamma": 1.0},
        {"kind": "varifocal", "gamma": 1.5},
        {"kind": "varifocal", "weight": 0.25},
    ],
)
def test_each_option(remote: CassClient, changes: dict[str, Any]) -> None:
    target = generate_mask(BOXES, SIZE, MAP, FINE)
    kind = {name: value for name, value in changes.items() if name == "kind"}
    expected = compute_loss(LOGITS, target, LossSpec(**changes))
    # Were the option lost on the way, this would be the answer.
    assert expected.loss != compute_loss(LOGITS, target, LossSpec(**kind)).loss
    for source in (FROM_BOXES, {"target": target}):
        got = remote.compute_loss(LOGITS, loss_spec=LossSpec(**changes), **source)
        same([got.loss, got.sum], [expected.loss, expected.sum])


@pytest.mark.parametrize(("num_boxes", "normalizer"), [(None, 12), (7.5, 7.5), (0, 1)])
def test_number_of_boxes(remote: CassClient, num_boxes: float | None, normalizer: float) -> None:
    spec = LossSpec(kind="bce", reduction="per_object")
    for client in (remote, CassClient("local:")):
        got = client.compute_loss(LOGITS, loss_spec=spec, num_boxes=num_boxes, **FROM_BOXES)
        assert got.normalizer == normalizer
        np.testing.assert_allclose(got.loss, got.sum / normalizer, rtol=1e-6)


def test_gradient_only_if_asked_for(remote: CassClient) -> None:
    target = np.zeros_like(LOGITS)
    for client in (remote, CassClient("local:")):
        for source in (FROM_BOXES, {"target": target}):
            assert client.compute_loss(LOGITS, **source).grad is None
            grad = client.compute_loss(LOGITS, return_grad=True, **source).grad
            assert grad.shape == LOGITS.shape


def test_flat_logits(remote: CassClient) -> None:
    grid, flat = (
        remote.compute_loss(logits, return_grad=True, **FROM_BOXES)
        for logits in (LOGITS, LOGITS.reshape(2, -1))
    )
    assert flat.grad.shape == (2, 240)
    same([flat.loss, flat.grad.reshape(grid.grad.shape)], [grid.loss, grid.grad])
