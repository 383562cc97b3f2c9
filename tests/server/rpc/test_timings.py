"""The times that a call may request: where its time went."""

from __future__ import annotations

import re
import time
from typing import Any

import grpc
import pytest

from cass_core.results import HostLoss
from cass_server.engines.base import CpuEngine
from tests.server.support.in_thread import running
from tests.server.support.observed import exposed, value
from tests.server.support.processes import LIMIT
from tests.server.support.requests import Writer, loss_request, mask_request

SERVICE = "/cass.v1.CassService"
ASKING = (("cass-timings", "1"),)
# https://www.w3.org/TR/server-timing/#the-server-timing-header-field
FORM = re.compile(r"queue;dur=(\d+\.\d{3}), compute;dur=(\d+\.\d{3}), encode;dur=(\d+\.\d{3})")
REQUESTS = {
    "GenerateMask": mask_request(images=2, boxes=3),
    "ComputeLoss": loss_request(images=2, boxes=3),
}


class Slow(CpuEngine):
    """Takes 20 ms."""

    small_fill = None

    def masks(self, *arguments: Any, **options: Any) -> None:
        """Compute them, slowly."""
        _spend(0.02)
        super().masks(*arguments, **options)

    def losses(self, *arguments: Any, **options: Any) -> HostLoss:
        """Compute them, slowly."""
        _spend(0.02)
        return super().losses(*arguments, **options)


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
def test_times_come_with_the_answer(method: str) -> None:
    """As the metrics have them: at least what the engine took, and at most what we waited."""
    with running(Slow()) as server:
        begun = time.perf_counter()
        asked, trailing = call(server.channel, method, ASKING)
        took = 1e3 * (time.perf_counter() - begun)
        samples = exposed([server.metrics])
        unasked, _ = call(server.channel, method)
    queue, compute, encode = times = milliseconds(trailing)
    assert compute >= 20
    assert queue > 0
    assert queue + compute + encode <= took
    assert asked == unasked
    for step, found in zip(("queue_wait", "compute", "encode"), times, strict=True):
        counted = value(samples, f"cass_{step}_seconds_sum", method=method)
        assert 1e3 * counted == pytest.approx(found, abs=0.002)


def test_times_come_only_on_request() -> None:
    """By the name of the metadata, whatever its value."""
    with running() as server:
        for method in REQUESTS:
            _, trailing = call(server.channel, method, (("cass-timing", "1"), ("timings", "1")))
            assert "server-timing" not in trailing
        for given in ("", "0", "no"):
            metadata = (("a", "b"), ("cass-timings", given))
            _, trailing = call(server.channel, "GenerateMask", metadata)
            assert len(milliseconds(trailing)) == 3


def test_the_wait_for_the_message_counts() -> None:
    """As the wait for a turn does: it is the caller's, and the answer could not come before."""
    writer: Writer[bytes] = Writer()
    with running() as server:
        ask = server.channel.stream_unary(f"{SERVICE}/GenerateMask")
        made = ask.future(iter(writer), timeout=LIMIT, metadata=ASKING)
        # What comes after it on the connection is answered before its message is sent.
        server.channel.unary_unary(f"{SERVICE}/GetServerInfo")(b"", timeout=LIMIT)
        _spend(0.02)
        writer.write(REQUESTS["GenerateMask"].SerializeToString())
        writer.close()
        made.result(timeout=LIMIT)
    queue, _, _ = milliseconds(dict(made.trailing_metadata()))
    assert queue >= 20
