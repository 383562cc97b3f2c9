"""Nothing is kept of requests that are over."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Iterator

import grpc
import pytest

from cass.v1 import cass_pb2 as pb
from tests.server.support.calls import Writer
from tests.server.support.in_thread import service_channel
from tests.server.support.processes import LIMIT, wait_until
from tests.server.support.requests import mask_request

SERVICE = "/cass.v1.CassService"
MIB = 1 << 20
LARGE = 8 * MIB
# Refused for what they hold beside boxes and tensors, and for the dtype in the last field.
BAD = {
    "unknown fields": b"\x78\x00" * (LARGE // 2),
    "counts": b"\x0a\x86\x80\x80\x04\x12\x80\x80\x80\x04" + bytes(LARGE),
    "boxes": mask_request(images=2, boxes=LARGE // 64).SerializeToString() + b"\x28\x63",
}


@pytest.fixture
def traced() -> Iterator[None]:
    """Memory is traced, and what is garbage stays."""
    gc.collect()
    gc.disable()
    tracemalloc.start()
    try:
        yield
    finally:
        tracemalloc.stop()
        gc.enable()


def held() -> int:
    """Bytes of Python's objects, those of the client in this process among them."""
    return tracemalloc.get_traced_memory()[0]


@pytest.mark.usefixtures("traced")
@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("method", ["GenerateMask", "GetServerInfo"])
def test_a_refused_message_is_not_kept(method: str, bad: str) -> None:
    """gRPC keeps a call that was aborted until the garbage is collected."""
    data = BAD[bad]
    with service_channel() as channel:
        call = channel.unary_unary(f"{SERVICE}/{method}")
        before = held()
        for _ in range(6):
            with pytest.raises(grpc.RpcError, match="INVALID_ARGUMENT"):
                call(data, timeout=LIMIT)
        wait_until(lambda: held() - before < len(data))


@pytest.mark.usefixtures("traced")
def test_a_stream_that_waits_keeps_nothing() -> None:
    """Neither the last request nor its answer, of 4 MiB each."""
    request = mask_request(side=1024, boxes=LARGE // 32)
    request.boxes.xyxy = bytes(LARGE // 2)  # as small as boxes get
    data = pb.StreamMasksRequest(request=request).SerializeToString()
    writers: list[Writer[bytes]] = [Writer() for _ in range(4)]
    with service_channel() as channel:
        make = channel.stream_stream(f"{SERVICE}/StreamMasks")
        (_,) = make(iter([data]), timeout=LIMIT)  # what is loaded for the first one stays
        before = held()
        calls = [make(iter(writer)) for writer in writers]
        for writer, call in zip(writers, calls, strict=True):
            writer.write(data)
            assert len(next(call)) > 4 * MIB
        # The client's channel keeps the last answer.
        wait_until(lambda: held() - before < 8 * MIB)
        for writer, call in zip(writers, calls, strict=True):
            writer.close()
            assert list(call) == []
