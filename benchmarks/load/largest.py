"""Health checks beside requests at the server's default limits: 64 MiB, 2^24 patches."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import grpc

from benchmarks.common.helper import Steps, helper
from benchmarks.common.server import server_on
from benchmarks.common.workload import CHANNEL_OPTIONS, SERVICE, covered_request
from benchmarks.load.prober import probe, summary
from cass.v1 import cass_pb2 as pb

MESSAGE_BYTES = 64 << 20
_IN_FLIGHT = 2
_PAUSE_SECONDS = 0.002
TITLE = f"Health checks beside the largest requests, {_IN_FLIGHT} in flight"


def loss() -> bytes:
    """Logits of zero against a target of zero."""
    patches = MESSAGE_BYTES // 5 - 64
    return pb.ComputeLossRequest(
        logits=pb.Tensor(dtype=pb.DATA_TYPE_FLOAT32, shape=[1, patches], data=bytes(4 * patches)),
        target=pb.Tensor(dtype=pb.DATA_TYPE_UINT8, shape=[1, patches], data=bytes(patches)),
        return_grad=True,
    ).SerializeToString()


def counts() -> bytes:
    """Counts of boxes alone."""
    unset = pb.BoxBatch(xyxy=bytes(MESSAGE_BYTES - 64)).SerializeToString()
    boxes = b"\x12" + unset[1:]  # the number of counts in place of that of xyxy
    message = pb.StreamMasksRequest(request=pb.GenerateMaskRequest()).SerializeToString()
    return message[:1] + pb.BoxBatch(xyxy=boxes).SerializeToString()[1:]


def repeated(field: bytes) -> bytes:
    """The same field again and again."""
    return field * (MESSAGE_BYTES // len(field) - 8)


CASES: dict[str, Callable[[], bytes]] = {
    "2^24 patches and owners, 64 boxes": partial(
        covered_request, 1, 64, 64, (4096, 4096), "float32", owners=True
    ),
    "2^24 patches, 2^18 boxes, 4096 images": partial(
        covered_request, 4096, 64, 64, (64, 64), "float32"
    ),
    "64 MiB of logits": loss,
    "64 MiB of counts": counts,
    "64 MiB of unknown fields": partial(repeated, b"\x78\x00"),
    "64 MiB of empty feature maps": partial(repeated, b"\x1a\x00"),
}
"""What makes the request of each case."""


def keep_in_flight(address: str, case: str, seconds: float) -> Steps:
    """Two requests of a case at any time, for so long."""
    method = "ComputeLoss" if CASES[case] is loss else "GenerateMask"
    request, codes = CASES[case](), Counter[str]()
    with grpc.insecure_channel(address, CHANNEL_OPTIONS) as channel:
        call: Any = channel.unary_unary(f"/{SERVICE}/{method}")
        grpc.channel_ready_future(channel).result()
        yield None
        running = [call.future(request) for _ in range(_IN_FLIGHT)]
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            for index, one in enumerate(running):
                if one.done():
                    codes[one.code().name] += 1
                    running[index] = call.future(request)
            time.sleep(_PAUSE_SECONDS)
        for one in running:
            one.cancel()
    yield codes


def measure(core: int, _: int, seconds: float) -> dict[str, Any]:
    """Health checks beside each case, on a server of its own."""
    results = {}
    for case in CASES:
        with (
            server_on(core) as server,
            helper(keep_in_flight, server.address, case, seconds) as callers,
            helper(probe, server.address, seconds) as prober,
        ):
            callers.go()
            prober.go()
            probes = summary([prober.result()])
            results[case] = {"probes": probes, "codes": dict(callers.result())}
    return results
