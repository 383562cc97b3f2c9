"""What a call that asks is told of where its time went."""

from __future__ import annotations

import re
import time
from typing import Any

import grpc
import pytest

from cass_core.loss_inputs import LossInputs
from cass_core.losses import HostLoss
from cass_server.engine import CpuEngine
from cass_server.metrics import Metrics
from tests.server.calls import LIMIT
from tests.server.in_thread import service_channel
from tests.server.observed import exposed
from tests.server.requests import loss_request, mask_request

SERVICE = "/cass.v1.CassService"
ASKING = (("cass-timings", "1"),)
# https://www.w3.org/TR/server-timing/#the-server-timing-header-field
FORM = re.compile(r"queue;dur=(\d+\.\d{3}), compute;dur=(\d+\.\d{3}), encode;dur=(\d+\.\d{3})")
REQUESTS = {
    "GenerateMask": mask_request(images=2, boxes=3),
    "ComputeLoss": loss_request(images=2, boxes=3),
}


class Slow(CpuEngine):
    """Takes 20 ms, in a thread or on the event loop."""

    def __init__(self, quick_effort: int) -> None:
        """Quick is what takes no longer, by its estimate."""
        self.quick_effort = quick_effort

    def masks(self, *arguments: Any) -> None:
        """Compute them, slowly."""
        _spend(0.02)
        super().masks(*arguments)

    def losses(self, inputs: LossInputs, loss: Any, grad: Any) -> HostLoss:
        """Compute them, slowly."""
        _spend(0.02)
        return super().losses(inputs, loss, grad)


def _spend(seconds: float) -> None:
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass


def call(channel: grpc.Channel, method: str, metadata: Any = ()) -> tuple[bytes, dict[str, Any]]:
    """The answer, and the trailing metadata."""
    make = channel.unary_unary(f"{SERVICE}/{method}")
    request = REQUESTS[method].SerializeToString()
    answer, made = make.with_call(request, timeout=LIMIT, metadata=metadata)
    return answer, dict(made.trailing_metadata())


def milliseconds(trailing: dict[str, Any]) -> list[float]:
    """Of queue, compute and encode."""
    found = FORM.fullmatch(trailing["server-timing"])
    assert found is not None
    return [float(part) for part in found.groups()]


@pytest.mark.parametrize("method", REQUESTS)
def test_the_metrics_count_the_same_times(method: str) -> None:
    """The wait for a message that comes late, too."""
    metrics = Metrics()
    with service_channel(CpuEngine(), metrics=metrics) as channel:
        _, trailing = call(channel, method, ASKING)
    for step, told in zip(("queue_wait", "compute", "encode"), milliseconds(trailing), strict=True):
        name = f"cass_{step}_seconds_sum"
        (seconds,) = (
            value
            for (sample, labels), value in exposed([metrics]).items()
            if sample == name and dict(labels)["method"] == method
        )
        assert 1e3 * seconds == pytest.approx(told, abs=0.002)


@pytest.mark.parametrize("quick_effort", [CpuEngine.quick_effort, 0])
@pytest.mark.parametrize("method", REQUESTS)
def test_a_call_that_asks_is_told(method: str, quick_effort: int) -> None:
    """On the event loop and in a thread: at least what the engine took, at most what we waited."""
    with service_channel(Slow(quick_effort)) as channel:
        begun = time.perf_counter()
        asked, trailing = call(channel, method, ASKING)
        took = 1e3 * (time.perf_counter() - begun)
        unasked, _ = call(channel, method)
    queue, compute, encode = milliseconds(trailing)
    assert compute >= 20
    assert queue > 0
    assert queue + compute + encode <= took
    assert asked == unasked


def test_a_call_that_does_not_ask_is_told_nothing() -> None:
    with service_channel() as channel:
        for method in REQUESTS:
            _, trailing = call(channel, method, (("cass-timing", "1"), ("timings", "1")))
            assert "server-timing" not in trailing


def test_whatever_the_value() -> None:
    with service_channel() as channel:
        for value in ("", "0", "no"):
            _, trailing = call(channel, "GenerateMask", (("a", "b"), ("cass-timings", value)))
            assert len(milliseconds(trailing)) == 3
