"""What the clients ask for, and what `CassClient` gets for the same."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np

SIZE, MAPS = (96, 128), [(12, 16), (6, 8), (3, 4)]
BOXES = [
    np.array([[4, 8, 60, 70], [50, 10, 90, 30]], np.float32),
    np.empty((0, 4), np.float32),
    np.array([[0, 0, 127, 95]], np.float32),
]
SPEC: dict[str, Any] = {"merge": "max", "base_sigma": [0.4, 0.7], "patch_size": 1}
LOSS: dict[str, Any] = {"kind": "varifocal", "reduction": "per_object"}
LOGITS = np.random.default_rng(7).normal(size=(3, 12, 16)).astype(np.float32)
NO_BOXES = BOXES[1:2]


def inputs(
    boxes: list[Any] | None = None, maps: list[tuple[int, int]] | None = None
) -> dict[str, Any]:
    """The inputs of ``cass_mask`` as arrays."""
    boxes = BOXES if boxes is None else boxes
    return {
        "BOXES": np.concatenate(boxes),
        "COUNTS": np.array([len(one) for one in boxes]),
        "IMAGE_SIZES": np.array([SIZE], np.int32),
        "FEATURE_MAPS": np.array(maps or MAPS, np.int32),
    }


CASES: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("cass_mask", inputs(), {"mask_spec": json.dumps(SPEC), "return_owner": True}),
    ("cass_mask", inputs(), {"mask_spec": "baseline", "dtype": "float16"}),
    ("cass_mask", inputs(), {"dtype": "uint8"}),
    ("cass_mask", inputs(NO_BOXES), {}),
    (
        "cass_loss",
        {"LOGITS": LOGITS, "TARGET": np.abs(LOGITS) / 8},
        {"loss_spec": json.dumps(LOSS), "num_boxes": "2.5", "return_grad": True},
    ),
    (
        "cass_loss",
        {"LOGITS": LOGITS.astype(np.float64), **inputs(maps=MAPS[:1])},
        {"loss_spec": "improved", "return_grad": True},
    ),
]
"""Model, inputs and parameters."""


def expected(address: str) -> list[dict[str, Any]]:
    """The outputs of `CASES`, by `CassClient`."""
    from cass_client import CassClient, LossSpec, MaskSpec

    with CassClient(address) as client:
        spec = MaskSpec(**SPEC)
        masks, owners = client.generate_mask(BOXES, SIZE, MAPS, spec, return_owner=True)
        halves = client.generate_mask(BOXES, SIZE, MAPS, MaskSpec.baseline(), dtype="float16")
        bytes_ = client.generate_mask(BOXES, SIZE, MAPS, dtype="uint8")
        empty = client.generate_mask(NO_BOXES, SIZE, MAPS)
        target = client.compute_loss(
            LOGITS,
            np.abs(LOGITS) / 8,
            loss_spec=LossSpec(**LOSS),
            num_boxes=2.5,
            return_grad=True,
        )
        of_boxes = client.compute_loss(
            LOGITS.astype(np.float64),
            boxes=BOXES,
            image_size=SIZE,
            feature_map=MAPS[0],
            loss_spec=LossSpec.improved(),
            return_grad=True,
        )
    named = [
        {f"MASK_{i}": mask for i, mask in enumerate(one)} for one in (masks, halves, bytes_, empty)
    ]
    named[0] |= {f"OWNER_{i}": owner for i, owner in enumerate(owners)}
    named += [
        {
            "LOSS": np.atleast_1d(loss.loss),
            "NORMALIZER": np.array([loss.normalizer]),
            "GRAD": loss.grad,
        }
        for loss in (target, of_boxes)
    ]
    return named


def compare(got: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Fails unless all is the same to the bit; SUM comes in full where the SDK rounds it."""
    assert got.keys() - {"SUM"} == wanted.keys(), (got.keys(), wanted.keys())
    for name, array in wanted.items():
        assert got[name].dtype == array.dtype, name
        assert got[name].shape == array.shape, name
        assert got[name].tobytes() == array.tobytes(), name


def error_of(call: Callable[[], Any], kind: type[Exception]) -> Any:
    """The error of this kind that a call raises."""
    try:
        call()
    except kind as error:
        return error
    raise AssertionError("no error")
