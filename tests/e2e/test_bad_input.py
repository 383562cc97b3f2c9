"""Bad input gets the same words from the core, the SDK and the server, and harms nobody."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import grpc
import numpy as np
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from cass.v1 import cass_pb2 as pb
from cass_client import CassClient
from cass_core import BoxBatch, InvalidRequest, LossSpec, MaskSpec, compute_loss, generate_mask
from tests.support.servers import ServerProcess

GOOD = [[1.0, 2.0, 5.0, 6.0]]
INF = float("inf")


def message(xyxy: list[float] | None = None, **changes: Any) -> pb.GenerateMaskRequest:
    """One image of 32 x 32 with one box on a 4 x 4 map."""
    fields: dict[str, Any] = {
        "boxes": pb.BoxBatch(xyxy=struct.pack("<4f", *(xyxy or GOOD[0])), counts=[1]),
        "image_sizes": pb.ImageSizes(heights=[32], widths=[32]),
        "feature_maps": [pb.FeatureMap(height=4, width=4)],
        "mask_spec": pb.MaskSpec(patch_size=1),
    }
    return pb.GenerateMaskRequest(**(fields | changes))


def masks(
    boxes: Any = (GOOD,),
    size: Any = (32, 32),
    cells: Any = (4, 4),
    spec: MaskSpec = MaskSpec(patch_size=1),  # noqa: B008 - frozen
    **options: Any,
) -> Any:
    return generate_mask(boxes, size, cells, spec, **options)


def sizes(h: int, w: int) -> pb.ImageSizes:
    return pb.ImageSizes(heights=[h], widths=[w])


def cells(h: int, w: int) -> list[pb.FeatureMap]:
    return [pb.FeatureMap(height=h, width=w)]


def remote_error(call: Any, request: Any) -> tuple[str, str]:
    """Field and reason of the refusal."""
    with pytest.raises(grpc.RpcError) as caught:
        call(request, timeout=60)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    status = rpc_status.from_call(caught.value)
    bad = error_details_pb2.BadRequest()
    assert status.details[0].Unpack(bad)
    (violation,) = bad.field_violations
    assert status.message == f"{violation.field}: {violation.description}"
    return violation.field, violation.description


@pytest.fixture(autouse=True)
def serves_on(remote: CassClient) -> Iterator[None]:
    """After each refusal a good request is answered."""
    yield
    assert remote.generate_mask([GOOD], (32, 32), (4, 4)).shape == (1, 4, 4)


SPECS: list[dict[str, Any]] = [
    {"patch_size": 0},
    {"expansion_ratio": -0.5},
    {"base_sigma": 0.0},
    {"min_radius": INF},
    {"size_factor_min": 3},
    {"base_sigma": (1, 2), "use_anisotropic_gaussian": False},
]
BOXES = [[float("nan"), 0, 1, 1], [0, 0, INF, 1], [3, 0, 1, 1], [0, 3, 1, 1]]
SUM = MaskSpec(patch_size=1, merge="sum")


def on_wire(spec: dict[str, Any]) -> pb.MaskSpec:
    sigma = {"base_sigma": np.atleast_1d(spec["base_sigma"])} if "base_sigma" in spec else {}
    return pb.MaskSpec(**(spec | sigma))


@pytest.mark.parametrize(
    ("request_", "local"),
    [
        *((message(box), partial(masks, [[box]])) for box in BOXES),
        *((message(mask_spec=on_wire(spec)), partial(MaskSpec, **spec)) for spec in SPECS),
        (message(image_sizes=sizes(0, 32)), partial(masks, size=(0, 32))),
        (message(image_sizes=sizes(2**31, 32)), partial(masks, size=(2**31, 32))),
        (
            message(image_sizes=pb.ImageSizes(heights=[1, 2], widths=[1, 2])),
            partial(masks, size=[(1, 1), (2, 2)]),
        ),
        (message(feature_maps=cells(0, 4)), partial(masks, cells=[(0, 4)])),
        (message(feature_maps=cells(4, 2**31)), partial(masks, cells=[(4, 2**31)])),
        (
            message(boxes=pb.BoxBatch(xyxy=struct.pack("<4f", *GOOD[0]), counts=[2])),
            partial(BoxBatch, np.array(GOOD, np.float32), [2]),
        ),
        (
            message(mask_spec=pb.MaskSpec(merge=pb.MERGE_SUM), dtype=pb.DATA_TYPE_UINT8),
            partial(masks, spec=SUM, dtype="uint8"),
        ),
        (
            message(mask_spec=pb.MaskSpec(merge=pb.MERGE_SUM), return_owner=True),
            partial(masks, spec=SUM, return_owner=True),
        ),
    ],
)
def test_same_words(
    stub: Any, request_: pb.GenerateMaskRequest, local: Callable[[], object]
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        local()
    assert remote_error(stub.GenerateMask, request_) == (caught.value.field, caught.value.reason)


def tensor(values: Any, dtype: str = "<f4") -> pb.Tensor:
    array = np.array(values, dtype)
    return pb.Tensor(dtype=pb.DATA_TYPE_FLOAT32, shape=array.shape, data=array.tobytes())


LOGITS = np.zeros((1, 2), np.float32)


@pytest.mark.parametrize(
    ("request_", "local"),
    [
        *(
            (
                pb.ComputeLossRequest(logits=tensor(LOGITS), target=tensor(target)),
                partial(compute_loss, LOGITS, np.array(target, np.float32)),
            )
            for target in ([[0, 1.5]], [[float("nan"), 0]], [[0, 1, 1]])
        ),
        (
            pb.ComputeLossRequest(
                logits=tensor(LOGITS), target=tensor([[0, 1]]), loss_spec=pb.LossSpec(gamma=-2.5)
            ),
            lambda: LossSpec(gamma=-2.5),
        ),
        (
            pb.ComputeLossRequest(
                logits=tensor(LOGITS),
                target=tensor([[0, 1]]),
                loss_spec=pb.LossSpec(reduction=pb.REDUCTION_PER_OBJECT),
            ),
            lambda: compute_loss(LOGITS, LOGITS, LossSpec(reduction="per_object")),
        ),
        (
            pb.ComputeLossRequest(logits=tensor(LOGITS), mask=message()),
            lambda: CassClient("local:").compute_loss(
                LOGITS,
                boxes=[GOOD],
                image_size=(32, 32),
                feature_map=(4, 4),
                mask_spec=MaskSpec(patch_size=1),
            ),
        ),
        (
            pb.ComputeLossRequest(logits=tensor(LOGITS)),
            lambda: CassClient("local:").compute_loss(LOGITS),
        ),
    ],
)
def test_same_words_of_losses(
    stub: Any, request_: pb.ComputeLossRequest, local: Callable[[], object]
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        local()
    assert remote_error(stub.ComputeLoss, request_) == (caught.value.field, caught.value.reason)


def huge_masks() -> pb.GenerateMaskRequest:
    """Of no images, so that they have no patches at all."""
    return message(boxes=None, image_sizes=None, feature_maps=cells(2**31 - 1, 2**31 - 1))


def huge_tensor(*shape: int) -> pb.Tensor:
    """Without an element, since one side is 0."""
    return pb.Tensor(dtype=pb.DATA_TYPE_FLOAT32, shape=[0, *shape])


@pytest.mark.parametrize(
    ("method", "fields"),
    [
        ("ComputeLoss", {"logits": huge_tensor(2**31 - 1, 2**31 - 1), "mask": huge_masks()}),
        ("ComputeLoss", dict.fromkeys(("logits", "target"), huge_tensor(*[2**32 - 1] * 3))),
        ("GenerateMask", {"request": huge_masks()}),
    ],
)
def test_shapes_that_numpy_cannot_describe(stub: Any, method: str, fields: Any) -> None:
    request = fields.get("request") or pb.ComputeLossRequest(**fields)
    code = grpc.StatusCode.OK
    try:
        getattr(stub, method)(request, timeout=60)
    except grpc.RpcError as error:
        code = error.code()
    assert code in (grpc.StatusCode.OK, grpc.StatusCode.INVALID_ARGUMENT)


def test_bytes_that_are_no_message(server: ServerProcess) -> None:
    logged = len(server.lines)
    with grpc.insecure_channel(server.address) as channel:
        call = channel.unary_unary("/cass.v1.CassService/ComputeLoss")
        expected = ("request", "is not a cass.v1.ComputeLossRequest")
        assert remote_error(call, b"\xff\xff") == expected
    assert "Traceback" not in "".join(server.lines[logged:])


def test_a_sum_above_1_is_no_target(stub: Any, remote: CassClient) -> None:
    """Found only after the mask is made, on either side."""
    request = pb.ComputeLossRequest(
        logits=tensor(np.zeros((1, 4, 4))),
        mask=message(
            boxes=pb.BoxBatch(xyxy=struct.pack("<4f", 0, 0, 32, 32) * 2, counts=[2]),
            mask_spec=pb.MaskSpec(patch_size=1, merge=pb.MERGE_SUM),
        ),
    )
    expected = ("mask_spec.merge", "sum gave a target above 1; use clipped_sum")
    assert remote_error(stub.ComputeLoss, request) == expected
    for client in (remote, CassClient("local:")):
        with pytest.raises(InvalidRequest) as caught:
            client.compute_loss(
                np.zeros((1, 4, 4), np.float32),
                boxes=[[[0, 0, 32, 32]] * 2],
                image_size=(32, 32),
                feature_map=(4, 4),
                mask_spec=MaskSpec(patch_size=1, merge="sum"),
            )
        assert (caught.value.field, caught.value.reason) == expected


def test_over_a_limit_through_the_sdk(remote: CassClient) -> None:
    """Many images are asked for in parts; an image cannot be."""
    assert remote.generate_mask([None] * 4097, (32, 32), (4, 4)).shape == (4097, 4, 4)
    with pytest.raises(InvalidRequest) as caught:
        remote.generate_mask([None], (32, 32), [(4, 4)] * 17)
    assert str(caught.value) == "feature_map: 17 feature maps, the server's limit is 16"
