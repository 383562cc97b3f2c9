"""What is counted of known calls, as Prometheus sees it."""

from __future__ import annotations

import pytest

from cass.v1 import cass_pb2 as pb
from cass_server.config.limits import Limits
from tests.server.support.details import fails
from tests.server.support.engines import FAILING, HELD, HoldingEngine
from tests.server.support.in_thread import running
from tests.server.support.observed import exposed
from tests.server.support.processes import LIMIT, wait_until
from tests.server.support.requests import loss_request, mask_request

SERVICE = "/cass.v1.CassService"


def test_every_call_is_counted() -> None:
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
    with running(HoldingEngine(holds=False), Limits(images=FAILING)) as server:
        for method, request, code in single:
            call = server.channel.unary_unary(f"{SERVICE}/{method}")
            if code is None:
                sent.append(call(request.SerializeToString(), timeout=LIMIT))
            else:
                with fails(code):
                    call(request.SerializeToString(), timeout=LIMIT)
        stream = server.channel.stream_stream(f"{SERVICE}/StreamMasks")
        sent += stream(iter(streamed), timeout=LIMIT)
        server.wait_in_flight(0)
    assert server.counted() == {
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
    histograms = {
        (name.removesuffix("_count"), dict(labels)["method"]): value
        for (name, labels), value in exposed([server.metrics]).items()
        if name.endswith("_seconds_count") and value
    }
    assert histograms == {
        ("cass_request_duration_seconds", "GenerateMask"): 4,
        ("cass_request_duration_seconds", "ComputeLoss"): 1,
        ("cass_request_duration_seconds", "StreamMasks"): 4,
        ("cass_request_duration_seconds", "GetServerInfo"): 1,
    } | {
        (f"cass_{step}_seconds", method): count
        for step in ("queue_wait", "compute", "encode")
        for method, count in (("GenerateMask", 2), ("ComputeLoss", 1), ("StreamMasks", 2))
    }


@pytest.mark.parametrize("way", ["cancel", "deadline"])
@pytest.mark.parametrize("side", [4, 256])
def test_calls_given_up_while_they_are_computed_count_as_cancelled(side: int, way: str) -> None:
    """It is computed all the same, and nothing of it is sent."""
    engine = HoldingEngine()
    with running(engine) as server:
        timeout = LIMIT if way == "cancel" else 1
        with engine.holding(server.stub, side=side, timeout=timeout) as (held,):
            if way == "cancel":
                held.cancel()
            wait_until(held.done)
            # Both ends know by then: what comes after it on the connection has come.
            info = server.stub.GetServerInfo(pb.GetServerInfoRequest(), timeout=LIMIT)
            server.wait_in_flight(1)
        server.wait_in_flight(0)
        assert server.ended()["GenerateMask", "CANCELLED"] == 1
        assert ("GenerateMask", "OK") not in server.ended()
        assert server.counted()["cass_images_total",] == HELD
        assert server.counted()["cass_sent_bytes_total",] == info.ByteSize()


@pytest.mark.parametrize("method", ["GenerateMask", "StreamMasks"])
def test_a_long_computation_ends_when_its_caller_has_gone(method: str) -> None:
    """Between images; then it is counted as nothing but given up."""
    engine = HoldingEngine(checks=True)
    request = mask_request(HELD, side=256)
    with running(engine) as server:
        if method == "GenerateMask":
            held = server.stub.GenerateMask.future(request, timeout=LIMIT)
        else:
            asked = iter([pb.StreamMasksRequest(request=request)])
            held = server.stub.StreamMasks(asked, timeout=LIMIT)
        engine.gate.wait_held()
        held.cancel()
        server.stub.GetServerInfo(pb.GetServerInfoRequest(), timeout=LIMIT)
        engine.gate.open()
        server.wait_in_flight(0)
        assert server.ended()[method, "CANCELLED"] == 1
        assert server.counted()["cass_rejections_total", "cancelled"] == 1
        assert ("cass_images_total",) not in server.counted()
