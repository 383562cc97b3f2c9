"""`local:` is `cass_core` behind the client's interface."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
import torch

from cass_client import (
    BoxBatch,
    CassClient,
    CassError,
    InvalidRequest,
    LossSpec,
    MaskSpec,
    ServerError,
    Timeout,
    Unavailable,
)
from cass_core import compute_loss, generate_mask
from cass_core.synthetic import street_boxes
from tests.support.compare import same
from tests.support.programs import printed

SIZE, MAP = (96, 160), (12, 20)
BOXES = [*street_boxes(2, 6, image_size=SIZE, seed=1), None]
SPEC = MaskSpec(patch_size=1)
LOCAL = CassClient("local:")


@pytest.mark.parametrize(
    "options",
    [{}, {"dtype": "float16"}, {"dtype": "uint8"}, {"return_owner": True}],
)
@pytest.mark.parametrize("feature_map", [MAP, [MAP, (6, 10)], []])
def test_masks(options: dict[str, Any], feature_map: Any) -> None:
    tensors = [None if b is None else torch.from_numpy(b) for b in BOXES]
    for boxes in (BOXES, tensors, BoxBatch.from_list(BOXES)):
        got = LOCAL.generate_mask(boxes, SIZE, feature_map, SPEC, **options)
        same(got, generate_mask(boxes, SIZE, feature_map, SPEC, **options))


def test_bfloat16_masks() -> None:
    boxes = [torch.tensor([[8.0, 8, 50, 70]])]
    got = LOCAL.generate_mask(boxes, SIZE, MAP, SPEC, dtype=torch.bfloat16)
    same(got, generate_mask(boxes, SIZE, MAP, SPEC, dtype="bfloat16"))
    assert got.dtype == torch.bfloat16


@pytest.mark.parametrize("reduction", ["none", "mean", "sum", "per_object"])
@pytest.mark.parametrize("kind", ["mse", "focal"])
@pytest.mark.parametrize("as_tensors", [False, True])
def test_losses(kind: Any, reduction: Any, as_tensors: bool) -> None:
    spec = LossSpec(kind=kind, reduction=reduction)
    logits: Any = np.linspace(-4, 4, 3 * 240, dtype=np.float32).reshape(3, *MAP)
    mask: Any = generate_mask(BOXES, SIZE, MAP, SPEC)
    if as_tensors:
        logits, mask = torch.from_numpy(logits), torch.from_numpy(mask)
    expected = compute_loss(logits, mask, spec, num_boxes=12, return_grad=True)
    from_target = LOCAL.compute_loss(logits, mask, loss_spec=spec, num_boxes=12, return_grad=True)
    from_boxes = LOCAL.compute_loss(
        logits,
        boxes=BOXES,
        image_size=SIZE,
        feature_map=MAP,
        mask_spec=SPEC,
        loss_spec=spec,
        return_grad=True,
    )
    for got in (from_target, from_boxes):
        same(got.grad, expected.grad)
        same([got.loss, got.sum], [expected.loss, expected.sum])
        assert got.normalizer == expected.normalizer


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (
            lambda: CassClient("local:", timeout=0),
            "timeout: must be a number of seconds above 0 and at most a year, got 0",
        ),
        (
            lambda: CassClient("local:", timeout=float("inf")),
            "timeout: must be a number of seconds above 0 and at most a year, got inf",
        ),
        (lambda: LOCAL.compute_loss([[0.0]]), "target: give either a target or boxes"),
        (
            lambda: LOCAL.compute_loss([[0.0]], [[0.0]], boxes=[None]),
            "target: give either a target or boxes",
        ),
        (
            lambda: LOCAL.compute_loss(
                [[0.0]], boxes=[None], image_size=(8, 8), feature_map=[(1, 1)]
            ),
            "feature_map: must be one (h, w) here",
        ),
        (
            lambda: LOCAL.compute_loss([[0.0]], [[0.0]], loss_spec=MaskSpec()),  # type: ignore[arg-type]
            "loss_spec: must be a LossSpec, got MaskSpec",
        ),
    ],
)
def test_refused(call: Any, error: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        call()
    assert str(caught.value) == error


def test_life() -> None:
    with CassClient("local:") as client:
        assert repr(client) == "CassClient('local:')"
    # A closed client opens again; a pickled one is as good.
    for usable in (client, pickle.loads(pickle.dumps(client))):
        assert usable.generate_mask([None], (8, 8), (2, 2)).shape == (1, 2, 2)
        assert usable.info().device == "cpu"
        assert usable.info().limits == {}


def test_local_needs_the_core() -> None:
    program = """
        import sys
        sys.modules["numba"] = None  # as good as not installed
        import importlib.util
        from cass_client import CassClient, CassError
        find = importlib.util.find_spec
        importlib.util.find_spec = lambda name: None if name == "numba" else find(name)
        try:
            CassClient("local:")
        except CassError as error:
            print(error)
        CassClient("localhost:1")
    """
    told = printed("-c", program)
    assert told == 'local: needs the core; install it with: pip install "cass[core]"\n'


def test_errors_are_one_tree() -> None:
    for error in (InvalidRequest, Timeout, Unavailable, ServerError):
        assert issubclass(error, CassError)


def test_what_equals_a_number_is_none() -> None:
    """Nor does it become one by having been asked for as a number before."""
    client = CassClient("local:")
    boxes = BoxBatch.from_list([[[0, 0, 1, 1]]])
    assert client.generate_mask(boxes, (1, 1), (1, 1)).shape == (1, 1, 1)
    for size, cells, field in (
        ((True, 1), (1, 1), "image_size"),
        ((1, 1), (1, True), "feature_map"),
    ):
        with pytest.raises(InvalidRequest, match=f"^{field}: "):
            client.generate_mask(boxes, size, cells)
    with pytest.raises(InvalidRequest, match=r"^feature_map: "):
        client.generate_mask(boxes, (1, 1), (0, 1))


def test_what_is_remembered_of_a_request_is_not_its_boxes() -> None:
    client = CassClient("local:")
    for side in (8, 16, 8):
        boxes = [[[0, 0, side, side]], [[0, 0, 2 * side, side]]]
        found = client.generate_mask(BoxBatch.from_list(boxes), (64, 64), (8, 8))
        np.testing.assert_array_equal(found, generate_mask(boxes, (64, 64), (8, 8)))
        one = client.generate_mask(BoxBatch.from_list(boxes[:1]), (64, 64), (8, 8))
        np.testing.assert_array_equal(one, generate_mask(boxes[:1], (64, 64), (8, 8)))
