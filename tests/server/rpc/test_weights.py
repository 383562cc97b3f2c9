"""Requests for weights as other clients may write them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from cass import convert
from cass.v1 import cass_pb2 as pb
from cass_core import generate_mask
from tests.server.support.details import fails
from tests.server.support.load import service_of
from tests.server.support.processes import LIMIT

BOXES = np.array([[1, 1, 6, 6], [2, 0, 8, 5]], np.float32)


def request(**fields: Any) -> pb.GenerateMaskRequest:
    return pb.GenerateMaskRequest(
        boxes=pb.BoxBatch(xyxy=BOXES.tobytes(), counts=[2]),
        image_sizes=pb.ImageSizes(heights=[8], widths=[8]),
        feature_maps=[pb.FeatureMap(height=4, width=4)],
        **fields,
    )


def tensor(*values: Any) -> pb.Tensor:
    array = np.array(values, np.float32)
    return pb.Tensor(dtype=pb.DATA_TYPE_FLOAT32, shape=array.shape, data=array.tobytes())


def test_weights_alone_and_again(address: str) -> None:
    """Nothing that they are made from is given; the second request is one that is known."""
    with service_of(address) as stub:
        for _ in range(3):
            answer = stub.GenerateMask(request(return_weights=True), timeout=LIMIT)
            _, owners, (weights,) = convert.masks_of(answer)
            assert owners == []
            assert weights.tolist() == np.ones((1, 4, 4)).tolist()


def test_what_weights_are_made_from_is_not_remembered(address: str) -> None:
    with service_of(address) as stub:
        for end in (8, 4, 2, 6):
            wanted = request(return_weights=True, valid_region=tensor([0, 0, end, 8]))
            answer = stub.GenerateMask(wanted, timeout=LIMIT)
            _, expected = generate_mask(
                [BOXES], (8, 8), (4, 4), return_weights=True, valid_region=[[0, 0, end, 8]]
            )
            np.testing.assert_array_equal(convert.masks_of(answer)[2][0], expected)
        # Without weights being requested they change nothing.
        answer = stub.GenerateMask(request(valid_region=tensor([0, 0, 2, 2])), timeout=LIMIT)
        assert len(answer.weights) == 0


BAD: list[tuple[dict[str, Any], str]] = [
    ({"valid_region": tensor(0, 0, 8, 8)}, "valid_region: must have the shape"),
    ({"valid_region": pb.Tensor(dtype=1, shape=[1, 4], data=bytes(12))},
     "valid_region: has 12 bytes of data"),
    ({"valid_region": tensor([0, 0, 8, 8], [0, 0, 8, 8])}, "valid_region: has 2 entries"),
    ({"box_weights": tensor(1, -1)}, "box_weights[1]: must be a finite number"),
    ({"box_weights": tensor(1)}, "box_weights: have the shape"),
    ({"ignore": pb.BoxBatch(xyxy=bytes(15), counts=[1])}, "ignore.xyxy: has 15 bytes"),
    ({"ignore": pb.BoxBatch(xyxy=bytes(16), counts=[2])}, "ignore.counts: add up to 2"),
    ({"ignore": pb.BoxBatch(counts=[0, 0])}, "ignore: has 2 entries"),
    ({"ignore": pb.BoxBatch(counts=[0] * 5000)}, "ignore.counts: 5000 images, the server's limit"),
    ({"weight_spec": pb.WeightSpec(balance=9)}, "weight_spec.balance: has the unknown value 9"),  # type: ignore[arg-type]
    ({"weight_spec": pb.WeightSpec(background_weight=-1)},
     "weight_spec.background_weight: must be"),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "error"), BAD)
@pytest.mark.parametrize("requested", [True, False])
def test_refused(address: str, fields: dict[str, Any], error: str, requested: bool) -> None:
    with service_of(address) as stub, fails("INVALID_ARGUMENT") as caught:
        stub.GenerateMask(request(return_weights=requested, **fields), timeout=LIMIT)
    assert str(caught.value.details()).startswith(error)


def test_losses_that_are_refused(address: str) -> None:
    logits, weights = tensor([1.0] * 16), tensor([1.0] * 15)
    cases: list[tuple[dict[str, Any], str]] = [
        ({"target": logits, "weights": weights}, "weights: has the shape"),
        ({"target": logits, "weights": tensor([-1.0] * 16)}, "weights[0][0]: must be"),
        ({"mask": request(), "weights": logits}, "weights: are made from boxes"),
        ({"mask": request(return_weights=True)}, "mask: must set nothing of its answer"),
    ]
    for fields, error in cases:
        with service_of(address) as stub, fails("INVALID_ARGUMENT") as caught:
            stub.ComputeLoss(pb.ComputeLossRequest(logits=logits, **fields), timeout=LIMIT)
        assert str(caught.value.details()).startswith(error)
