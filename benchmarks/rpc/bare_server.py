"""gRPC servers of a few lines around the kernel.

`python -m benchmarks.rpc.bare_server threads|asyncio` prints its port, and serves until it is
killed.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import numpy as np

from benchmarks.common.processes import HOST
from benchmarks.common.workload import CHANNEL_OPTIONS, kernel_masks
from cass.v1 import cass_pb2 as pb
from cass_core import BoxBatch

# Two small messages of the contract carry all: the feature map stands behind the counts.
_FORM = (pb.BoxBatch.FromString, pb.Tensor.SerializeToString)
_THREADS = 2


def answer(request: pb.BoxBatch, _: Any = None) -> pb.Tensor:
    """The masks of a request."""
    *counts, height, width = request.counts
    xyxy = np.frombuffer(request.xyxy, np.float32).reshape(-1, 4)
    mask = kernel_masks(BoxBatch.packed(xyxy, counts), (height, width))
    return pb.Tensor(dtype=pb.DATA_TYPE_FLOAT32, shape=mask.shape, data=mask.tobytes())


def _start(server: Any, unary: Any, stream: Any) -> Any:
    methods = {
        "Unary": grpc.unary_unary_rpc_method_handler(unary, *_FORM),
        "Stream": grpc.stream_stream_rpc_method_handler(stream, *_FORM),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("Bare", methods),))
    print(server.add_insecure_port(f"{HOST}:0"), flush=True)
    return server.start()


def serve_threads() -> None:
    """gRPC's threaded server."""

    def stream(requests: Iterator[pb.BoxBatch], _: Any) -> Iterator[pb.Tensor]:
        yield from map(answer, requests)

    server = grpc.server(ThreadPoolExecutor(_THREADS), options=CHANNEL_OPTIONS)
    _start(server, answer, stream)
    server.wait_for_termination()


async def serve_asyncio() -> None:
    """gRPC's asyncio server."""

    async def unary(request: pb.BoxBatch, _: Any) -> pb.Tensor:
        return answer(request)

    async def stream(requests: Any, _: Any) -> Any:
        async for request in requests:
            yield answer(request)

    server = grpc.aio.server(options=CHANNEL_OPTIONS)
    await _start(server, unary, stream)
    await server.wait_for_termination()


if __name__ == "__main__":
    if sys.argv[1] == "threads":
        serve_threads()
    else:
        import uvloop

        asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
        asyncio.run(serve_asyncio())
