"""Messages before threads, and the plain way of a gRPC that cannot be asked for that."""

from __future__ import annotations

import queue
import time
from types import SimpleNamespace
from typing import Any, cast

import grpc
import pytest

from cass.v1 import cass_pb2 as pb
from cass.v1 import cass_pb2_grpc
from cass_server.config.limits import Limits
from cass_server.rpc import receiving
from cass_server.rpc.receiving import Received
from tests.server.support.calls import requests_counted
from tests.server.support.engines import HELD, Held
from tests.server.support.in_thread import SLOTS, running, service_channel
from tests.server.support.processes import LIMIT
from tests.server.support.requests import loss_request, mask_request


def test_the_installed_grpc_is_as_expected() -> None:
    assert receiving.IS_SUPPORTED


@pytest.fixture(params=[True, False], ids=["message first", "plain"])
def either_way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Both ways of receiving."""
    monkeypatch.setattr(receiving, "IS_SUPPORTED", request.param)
    return bool(request.param)


def test_calls_and_streams(either_way: bool) -> None:
    with service_channel() as channel:
        stub = cass_pb2_grpc.CassServiceStub(channel)
        (mask,) = stub.GenerateMask(mask_request(images=3), timeout=LIMIT).masks
        assert list(mask.shape) == [3, 4, 4]
        # 4 x 4 patches of zero logits: the mean of sixteen equal normalisers.
        assert stub.ComputeLoss(loss_request(), timeout=LIMIT).normalizer == 16
        asked = [pb.StreamMasksRequest(request=mask_request(images=n)) for n in range(1, 9)]
        answers = list(stub.StreamMasks(iter(asked), timeout=LIMIT))
    assert [answer.masks.masks[0].shape[0] for answer in answers] == list(range(1, 9))


def test_a_call_without_a_message(either_way: bool) -> None:
    with service_channel() as channel, pytest.raises(grpc.RpcError) as caught:
        channel.stream_unary("/cass.v1.CassService/GenerateMask")(iter(()), timeout=LIMIT)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert caught.value.details() == "request: is missing"


def test_a_full_server(either_way: bool) -> None:
    engine = Held()
    with service_channel(engine, Limits(requests_in_flight=1)) as channel:
        stub = cass_pb2_grpc.CassServiceStub(channel)
        first = stub.GenerateMask.future(mask_request(images=HELD), timeout=LIMIT)
        assert engine.waiting.acquire(timeout=LIMIT)
        with pytest.raises(grpc.RpcError) as caught:
            stub.GenerateMask(mask_request(), timeout=LIMIT)
        engine.go.set()
        assert len(first.result(LIMIT).masks) == 1
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_calls_without_messages_take_no_thread() -> None:
    """More of them than there are slots, on one connection."""
    with running() as server, grpc.insecure_channel(server.address) as channel:
        unsent: queue.Queue[bytes | None] = queue.Queue()
        ask = channel.stream_unary("/cass.v1.CassService/GenerateMask")
        waiting = [ask.future(iter(unsent.get, None), timeout=LIMIT) for _ in range(2 * SLOTS)]
        stub = cass_pb2_grpc.CassServiceStub(channel)
        assert len(stub.GenerateMask(mask_request(), timeout=LIMIT).masks) == 1
        for call in waiting:
            call.cancel()
            unsent.put(None)


class Late:
    """The context of a call that was cancelled, as far as gRPC has not reported that yet."""

    status: grpc.Status | None = None

    def invocation_metadata(self) -> tuple[()]:
        return ()

    def add_callback(self, _: object) -> bool:
        return True

    def time_remaining(self) -> float:
        return LIMIT

    def abort_with_status(self, status: grpc.Status) -> None:
        self.status = status


@pytest.mark.parametrize(("in_time", "code"), [(True, "INVALID_ARGUMENT"), (False, "CANCELLED")])
def test_a_call_without_a_message_ends_by_what_happened(in_time: bool, code: str) -> None:
    """One that was cancelled for it was no invalid request, even if gRPC reports it too late."""
    with running() as server:
        call = SimpleNamespace(method="/cass.v1.CassService/GenerateMask", invocation_metadata=())
        handler = server.router.service(cast(grpc.HandlerCallDetails, call))
        assert handler is not None
        method: Any = handler.stream_unary
        context = Late()
        admitted = method.admit((), time.perf_counter())
        method(Received(None, admitted, in_time), context)
        assert context.status is not None
        assert context.status.code.name == code
        assert requests_counted(server.metrics) == {("GenerateMask", code): 1}
