"""Messages before threads, and the plain way of a gRPC that cannot be asked for that."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import grpc
import pytest

from cass_server.config.limits import Limits
from cass_server.rpc import receiving
from cass_server.rpc.receiving import Received
from tests.server.support.details import fails
from tests.server.support.engines import HoldingEngine
from tests.server.support.in_thread import running
from tests.server.support.processes import LIMIT
from tests.server.support.requests import Stream, loss_request, mask_request


def test_the_installed_grpc_is_as_expected() -> None:
    assert receiving.IS_SUPPORTED


@pytest.mark.parametrize("is_supported", [True, False], ids=["message first", "plain"])
def test_both_ways_are_alike(is_supported: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(receiving, "IS_SUPPORTED", is_supported)
    engine = HoldingEngine()
    with running(engine, Limits(requests_in_flight=1)) as server:
        (mask,) = server.stub.GenerateMask(mask_request(images=3), timeout=LIMIT).masks
        assert list(mask.shape) == [3, 4, 4]
        # 4 x 4 patches of zero logits: the mean of sixteen equal normalisers.
        assert server.stub.ComputeLoss(loss_request(), timeout=LIMIT).normalizer == 16
        stream = Stream(server.stub, *map(mask_request, (1, 3, 4)))
        assert [stream.images() for _ in range(3)] == [1, 3, 4]
        with fails("INVALID_ARGUMENT", "request: is missing"):
            ask = server.channel.stream_unary("/cass.v1.CassService/GenerateMask")
            ask(iter(()), timeout=LIMIT)
        with engine.holding(server.stub) as (first,), fails("RESOURCE_EXHAUSTED"):
            server.stub.GenerateMask(mask_request(), timeout=LIMIT)
        assert len(first.result().masks) == 1


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
        method(Received(None, None, in_time), context)
        assert context.status is not None
        assert context.status.code.name == code
        assert server.ended() == {("GenerateMask", code): 1}
