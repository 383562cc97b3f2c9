"""gRPC servers of a few lines around the fused kernel.

`python -m benchmarks.rpc.bare_server threads|asyncio` prints its port, and serves until
it is killed.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import numpy as np

from benchmarks.common.processes import HOST
from benchmarks.common.workload import CHANNEL_OPTIONS, IMAGE_SIZE
from benchmarks.rpc.kernel import masks
from cass.v1 import cass_pb2 as pb

# Two small messages of the contract carry all: the feature map stands behind the counts.
_FORM = (pb.BoxBatch.FromString, pb.Tensor.SerializeToString)
_THREADS = 2


def answer(request: pb.BoxBatch, _: Any = None) -> pb.Tensor:
    """The masks of a request."""
    *counts, height, width = request.counts
    xyxy = np.frombuffer(request.xyxy, np.float32).reshape(-1, 4)
    mask = masks(xyxy, np.array(counts), IMAGE_SIZE, (height, width))
    return pb.Tensor(dtype=pb.DATA_TYPE_FLOAT32, shape=mask.shape, data=mask.tobytes())


def _handlers(one: Any, stream: Any) -> Any:
    methods = {
        "One": grpc.unary_unary_rpc_method_handler(one, *_FORM),
        "Stream": grpc.stream_stream_rpc_method_handler(stream, *_FORM),
    }
    return (grpc.method_handlers_generic_handler("Bare", methods),)


def serve_threads() -> None:
    """gRPC's threaded server."""

    def stream(requests: Iterator[pb.BoxBatch], _: Any) -> Iterator[pb.Tensor]:
        yield from map(answer, requests)

    server = grpc.server(ThreadPoolExecutor(_THREADS), options=CHANNEL_OPTIONS)
    server.add_generic_rpc_handlers(_handlers(answer, stream))
    print(server.add_insecure_port(f"{HOST}:0"), flush=True)
    server.start()
    server.wait_for_termination()


def serve_asyncio() -> None:
    """gRPC's asyncio server on uvloop."""
    import uvloop

    async def one(request: pb.BoxBatch, _: Any) -> pb.Tensor:
        return answer(request)

    async def stream(requests: Any, _: Any) -> Any:
        async for request in requests:
            yield answer(request)

    async def serve() -> None:
        server = grpc.aio.server(options=CHANNEL_OPTIONS)
        server.add_generic_rpc_handlers(_handlers(one, stream))
        print(server.add_insecure_port(f"{HOST}:0"), flush=True)
        await server.start()
        await server.wait_for_termination()

    uvloop.run(serve())


if __name__ == "__main__":
    {"threads": serve_threads, "asyncio": serve_asyncio}[sys.argv[1]]()
