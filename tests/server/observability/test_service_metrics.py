"""What is counted of known calls, as Prometheus sees it."""

from __future__ import annotations

from typing import Any

import grpc
import pytest

from cass.v1 import cass_pb2 as pb
from cass_server.config.limits import Limits
from cass_server.engines.base import Checkpoint
from cass_server.observability.metrics import Metrics
from tests.server.support.calls import counted, in_flight
from tests.server.support.engines import FAILING, HELD, Held
from tests.server.support.in_thread import service, service_channel
from tests.server.support.observed import exposed
from tests.server.support.processes import LIMIT, wait_until
from tests.server.support.requests import loss_request, mask_request

SERVICE = "/cass.v1.CassService"


def test_every_call_is_counted() -> None:
    metrics, engine = Metrics(), Held()
    engine.go.set()
    # Two images of 3 boxes each on two maps of 16 patches; one image of 64 patches with a box.
    good, loss = mask_request(images=2, maps=2, boxes=3), loss_request(side=8)
    bad, failing = mask_request(images=6), mask_request(images=FAILING)
    single = [
        ("GenerateMask", good, None),
        ("GenerateMask", good, None),
        ("GenerateMask", bad, "INVALID_ARGUMENT"),
        ("GenerateMask", failing, "INTERNAL"),
        ("ComputeLoss", loss, None),
        ("GetServerInfo", pb.GetServerInfoRequest(), None),
    ]
    streamed = [
        pb.StreamMasksRequest(request=request).SerializeToString()
        for request in (good, bad, good, failing)
    ]
    sent = []
    with service_channel(engine, Limits(images=FAILING), metrics) as channel:
        for method, request, code in single:
            call = channel.unary_unary(f"{SERVICE}/{method}")
            if code is None:
                sent.append(call(request.SerializeToString(), timeout=LIMIT))
            else:
                with pytest.raises(grpc.RpcError, match=code):
                    call(request.SerializeToString(), timeout=LIMIT)
        stream = channel.stream_stream(f"{SERVICE}/StreamMasks")
        sent += stream(iter(streamed), timeout=LIMIT)
        wait_until(lambda: in_flight(metrics) == 0)
    assert counted(metrics) == {
        ("cass_requests_total", "OK", "GenerateMask"): 2,
        ("cass_requests_total", "INVALID_ARGUMENT", "GenerateMask"): 1,
        ("cass_requests_total", "INTERNAL", "GenerateMask"): 1,
        ("cass_requests_total", "OK", "ComputeLoss"): 1,
        ("cass_requests_total", "OK", "GetServerInfo"): 1,
        ("cass_requests_total", "OK", "StreamMasks"): 2,
        ("cass_requests_total", "INVALID_ARGUMENT", "StreamMasks"): 1,
        ("cass_requests_total", "INTERNAL", "StreamMasks"): 1,
        # Of what was computed: the masks four times, and the loss.
        ("cass_images_total",): 4 * 2 + 1,
        ("cass_boxes_total",): 4 * 6 + 1,
        ("cass_patches_total",): 4 * 64 + 64,
        ("cass_received_bytes_total",): sum(len(data) for data in streamed)
        + sum(request.ByteSize() for _, request, _ in single),
        ("cass_sent_bytes_total",): sum(map(len, sent)),
    }
    assert histogram_counts(metrics) == {
        ("cass_request_duration_seconds", "GenerateMask"): 4,
        ("cass_request_duration_seconds", "ComputeLoss"): 1,
        ("cass_request_duration_seconds", "StreamMasks"): 4,
        ("cass_request_duration_seconds", "GetServerInfo"): 1,
    } | {
        (f"cass_{step}_seconds", method): count
        for step in ("queue_wait", "compute", "encode")
        for method, count in (("GenerateMask", 2), ("ComputeLoss", 1), ("StreamMasks", 2))
    }


def histogram_counts(metrics: Metrics) -> dict[tuple[str, str], float]:
    """How many values each histogram of times has, if any."""
    return {
        (name.removesuffix("_count"), dict(labels)["method"]): value
        for (name, labels), value in exposed([metrics]).items()
        if name.endswith("_seconds_count") and value
    }


# An answer of 256 KiB.
LARGE = 256


@pytest.mark.parametrize(
    ("limits", "reason"),
    [(Limits(requests_in_flight=1), "requests"), (Limits(queue_bytes=1 << 18), "bytes")],
)
def test_what_is_turned_away_is_counted_by_its_reason(limits: Limits, reason: str) -> None:
    """And is no longer in flight, while what was there before is."""
    metrics, engine = Metrics(), Held()
    with service(engine, limits, metrics) as stub:
        held = stub.GenerateMask.future(mask_request(HELD, side=LARGE), timeout=LIMIT)
        assert engine.waiting.acquire(timeout=LIMIT)
        for _ in range(3):
            with pytest.raises(grpc.RpcError, match="RESOURCE_EXHAUSTED"):
                stub.GenerateMask(mask_request(side=LARGE), timeout=LIMIT)
        wait_until(lambda: in_flight(metrics) == 1)
        engine.go.set()
        held.result(timeout=LIMIT)
        wait_until(lambda: in_flight(metrics) == 0)
    found = counted(metrics)
    assert found["cass_rejections_total", reason] == 3
    assert found["cass_requests_total", "RESOURCE_EXHAUSTED", "GenerateMask"] == 3
    assert found["cass_requests_total", "OK", "GenerateMask"] == 1


@pytest.mark.parametrize("way", ["cancel", "deadline"])
@pytest.mark.parametrize("side", [4, LARGE])
def test_who_gives_up_while_it_is_computed_is_counted_as_cancelled(side: int, way: str) -> None:
    """It is computed all the same, and nothing of it is sent."""
    metrics, engine = Metrics(), Held()
    with service(engine, metrics=metrics) as stub:
        timeout = LIMIT if way == "cancel" else 1
        held = stub.GenerateMask.future(mask_request(HELD, side), timeout=timeout)
        try:
            assert engine.waiting.acquire(timeout=LIMIT)
            if way == "cancel":
                held.cancel()
            wait_until(held.done)
            # Both ends know by then: what comes after it on the connection has come.
            info = stub.GetServerInfo(pb.GetServerInfoRequest(), timeout=LIMIT)
            wait_until(lambda: in_flight(metrics) == 1)
        finally:
            engine.go.set()
        wait_until(lambda: in_flight(metrics) == 0)
    found = counted(metrics)
    assert found["cass_requests_total", "CANCELLED", "GenerateMask"] == 1
    assert ("cass_requests_total", "OK", "GenerateMask") not in found
    assert found["cass_images_total",] == HELD
    assert found["cass_sent_bytes_total",] == info.ByteSize()


class Checked(Held):
    """Looks whether it is still to compute, once it is let go; as long computations do."""

    def masks(self, *arguments: Any, checkpoint: Checkpoint = None) -> None:
        """Wait and look."""
        super().masks(*arguments)
        assert checkpoint is not None
        checkpoint()


@pytest.mark.parametrize("method", ["GenerateMask", "StreamMasks"])
def test_a_long_computation_ends_when_nobody_waits_for_it(method: str) -> None:
    """Between images; then it is counted as nothing but given up."""
    metrics, engine = Metrics(), Checked()
    with service(engine, metrics=metrics) as stub:
        request = mask_request(HELD, LARGE)
        if method == "GenerateMask":
            held = stub.GenerateMask.future(request, timeout=LIMIT)
        else:
            held = stub.StreamMasks(iter([pb.StreamMasksRequest(request=request)]), timeout=LIMIT)
        assert engine.waiting.acquire(timeout=LIMIT)
        held.cancel()
        stub.GetServerInfo(pb.GetServerInfoRequest(), timeout=LIMIT)
        engine.go.set()
        wait_until(lambda: in_flight(metrics) == 0)
    found = counted(metrics)
    assert found["cass_requests_total", "CANCELLED", method] == 1
    assert found["cass_rejections_total", "cancelled"] == 1
    assert ("cass_images_total",) not in found
