"""What a caller is told of an error, and that one request's failure is nobody else's."""

from __future__ import annotations

import logging
import struct
import traceback
from concurrent.futures import Future

import grpc
import pytest

from cass.v1 import cass_pb2 as pb
from cass_core import __version__
from cass_server.config.limits import Limits
from tests.server.support.details import violations
from tests.server.support.engines import FAILING, HELD, Held
from tests.server.support.in_thread import service
from tests.server.support.requests import loss_request, mask_request


def test_bad_request_names_the_field() -> None:
    request = mask_request()
    request.mask_spec.patch_size = 0
    with service() as stub, pytest.raises(grpc.RpcError) as caught:
        stub.GenerateMask(request, timeout=60)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert violations(caught.value) == [
        ("mask_spec.patch_size", "must be a whole number from 1 to 2147483647, got 0")
    ]
    assert caught.value.details() == (
        "mask_spec.patch_size: must be a whole number from 1 to 2147483647, got 0"
    )


def test_bad_loss_request_names_the_field() -> None:
    """The target's values are checked by the engine, while it computes."""
    numbers = struct.pack("<2f", 0, 2)
    tensor = pb.Tensor(dtype=pb.DATA_TYPE_FLOAT32, shape=[1, 2], data=numbers)
    with service() as stub, pytest.raises(grpc.RpcError) as caught:
        stub.ComputeLoss(pb.ComputeLossRequest(logits=tensor, target=tensor), timeout=60)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert violations(caught.value) == [("target[0][1]", "is not in [0, 1] (2.0)")]


def test_a_failure_inside_tells_nothing_of_it(caplog: pytest.LogCaptureFixture) -> None:
    with service(Held()) as stub, caplog.at_level(logging.INFO, "cass_server"):
        with pytest.raises(grpc.RpcError) as caught:
            stub.GenerateMask(mask_request(images=FAILING), timeout=60)
        assert len(stub.GenerateMask(mask_request(), timeout=60).masks) == 1
    assert caught.value.code() is grpc.StatusCode.INTERNAL
    assert caught.value.details() == "internal error; see the server's log"
    trailing = dict(caught.value.trailing_metadata())
    assert set(trailing) == {"grpc-status-details-bin", "x-request-id"}
    assert "secret" not in repr(trailing)
    (record,) = caplog.records
    assert record.getMessage() == "request failed"
    assert record.levelname == "ERROR"
    assert record.exc_info is not None
    assert any(entry.name == "masks" for entry in traceback.extract_tb(record.exc_info[2]))
    assert str(record.exc_info[1]) == "a secret of the inside"
    assert (record.method, record.code) == (  # type: ignore[attr-defined]
        "GenerateMask",
        "INTERNAL",
    )


def test_errors_do_not_disturb_what_is_in_flight(caplog: pytest.LogCaptureFixture) -> None:
    engine = Held()
    request = mask_request(images=3)
    request.boxes.counts.append(2)
    with service(engine) as stub, caplog.at_level(logging.INFO, "cass_server"):
        in_flight: Future[pb.GenerateMaskResponse] = stub.GenerateMask.future(
            mask_request(images=HELD), timeout=60
        )
        assert engine.waiting.acquire(timeout=60)
        with pytest.raises(grpc.RpcError, match=r"boxes.counts: add up to 5"):
            stub.GenerateMask(request, timeout=60)
        with pytest.raises(grpc.RpcError, match=r"internal error"):
            stub.GenerateMask(mask_request(images=FAILING), timeout=60)
        assert not in_flight.done()
        engine.go.set()
        assert list(in_flight.result(timeout=60).masks[0].shape) == [HELD, 4, 4]
    refused, failed = caplog.records
    assert (refused.getMessage(), refused.levelname) == ("request refused", "WARNING")
    assert refused.reason == (  # type: ignore[attr-defined]
        "boxes.counts: add up to 5, but there are 3 boxes"
    )
    assert failed.getMessage() == "request failed"


def test_loss_from_boxes() -> None:
    """A logit of 0 is a probability p of 1/2; the gradient is 2 (p - y) p (1 - p)."""
    request = loss_request()
    request.loss_spec.kind = pb.LOSS_KIND_MSE
    request.loss_spec.reduction = pb.REDUCTION_SUM
    # Without context (expansion 0) the mask is 0 or 1: each patch has a loss of 1/4.
    request.mask.mask_spec.expansion_ratio = 0
    with service() as stub:
        answer = stub.ComputeLoss(request, timeout=60)
    assert (answer.sum, answer.normalizer) == (4.0, 1.0)
    assert (answer.loss.data, list(answer.loss.shape)) == (struct.pack("<f", 4), [])
    rows = ((0.25,) * 4, (0.25, -0.25, -0.25, 0.25))
    expected = (*rows[0], *rows[1], *rows[1], *rows[0])
    assert (answer.grad.data, list(answer.grad.shape)) == (
        struct.pack("<16f", *expected),
        [1, 4, 4],
    )


def test_server_info() -> None:
    values = {
        "message_bytes": 1,
        "images": 2,
        "boxes": 3,
        "patches": 4,
        "feature_maps": 5,
        "requests_in_flight": 6,
        "queue_bytes": 7,
        "streams_per_connection": 8,
        "keepalive_min_seconds": 0.5,
    }
    limits = Limits(**values)  # type: ignore[arg-type]
    with service(limits=limits) as stub:
        info = stub.GetServerInfo(pb.GetServerInfoRequest(), timeout=60)
    assert (info.version, info.device) == (__version__, "cpu")
    assert info.limits == pb.Limits(**values)  # type: ignore[arg-type]
