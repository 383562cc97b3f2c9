"""Servers that `benchmarks.rpc` puts beside ours: a bare one, an echo, and ours uncounted.

`python -m benchmarks.rpc_servers bare|echo|uncounted` prints its port and serves until it is
killed.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import grpc
import numpy as np
import uvloop

from cass.v1 import cass_pb2 as pb
from cass_core import BoxBatch, MaskSpec
from cass_core.cpu.run import fill_mask
from cass_server.app import Place, serve
from cass_server.engine import CpuEngine
from cass_server.memory import keep_freed_memory
from cass_server.metrics import Metrics
from cass_server.settings import Settings

SERVICE = "cass.v1.CassService"
SPEC = MaskSpec(patch_size=1)
DTYPES: dict[int, str] = {
    pb.DATA_TYPE_FLOAT32: "float32",
    pb.DATA_TYPE_FLOAT16: "float16",
    pb.DATA_TYPE_UINT8: "uint8",
}


def bare(request: pb.GenerateMaskRequest) -> pb.GenerateMaskResponse:
    """The kernel called directly, no checks, the same tensors back."""
    counts = np.array(list(request.boxes.counts), np.int64)
    xyxy = np.frombuffer(request.boxes.xyxy, np.float32).reshape(-1, 4)
    boxes = object.__new__(BoxBatch)
    boxes._fill(xyxy, counts, np.concatenate(([0], counts.cumsum())), None)
    sizes = np.array([[request.image_sizes.heights[0], request.image_sizes.widths[0]]], float)
    cells = request.feature_maps[0].height, request.feature_maps[0].width
    dtype = DTYPES[request.dtype]
    mask = np.empty((len(counts), *cells), dtype)
    fill_mask(boxes, sizes, cells, SPEC, dtype, mask, None)
    tensor = pb.Tensor(dtype=request.dtype, shape=mask.shape, data=mask.tobytes())
    return pb.GenerateMaskResponse(masks=[tensor])


def bare_unary(data: bytes) -> bytes:
    """A serialized request to its answer."""
    return bare(pb.GenerateMaskRequest.FromString(data)).SerializeToString()


def bare_entry(data: bytes) -> bytes:
    """The same for a stream."""
    request = pb.StreamMasksRequest.FromString(data).request
    return pb.StreamMasksResponse(masks=bare(request)).SerializeToString()


def echo(data: bytes) -> bytes:
    """Bytes that are there already, as many as the masks have."""
    request = pb.GenerateMaskRequest.FromString(data)
    return _filler(request)


def echo_entry(data: bytes) -> bytes:
    """The same for a stream."""
    return _filler(pb.StreamMasksRequest.FromString(data).request)


_fillers: dict[int, bytes] = {}


def _filler(request: pb.GenerateMaskRequest) -> bytes:
    cells = request.feature_maps[0].height * request.feature_maps[0].width
    size = len(request.boxes.counts) * cells * np.dtype(DTYPES[request.dtype]).itemsize
    return _fillers.setdefault(size, bytes(size))


async def serve_bare(unary: Callable[[bytes], bytes], entry: Callable[[bytes], bytes]) -> None:
    """A few lines of grpc.aio around a function."""

    async def answer(data: bytes, _: Any) -> bytes:
        return unary(data)

    async def answers(_: Any, context: Any) -> None:
        while (data := await context.read()) is not grpc.aio.EOF:
            await context.write(entry(data))

    methods: dict[str, Any] = {
        "GenerateMask": grpc.unary_unary_rpc_method_handler(answer),
        "StreamMasks": grpc.stream_stream_rpc_method_handler(answers),
    }
    server = grpc.aio.server(options=(("grpc.max_send_message_length", -1),))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, methods),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(port, flush=True)
    await server.wait_for_termination()


class Uncounted(Metrics):
    """Counts nothing."""

    def started(self) -> None:
        """Nothing."""

    def finished(self, *_: Any) -> None:
        """Nothing."""

    def computed(self, *_: Any) -> None:
        """Nothing."""

    def gpu_memory(self, *_: Any) -> None:
        """Nothing."""


async def serve_ours(metrics: Metrics) -> None:
    """Our own server."""
    place = Place(
        0, shared=False, serving=lambda address: print(address.rpartition(":")[2], flush=True)
    )
    await serve(Settings(device="cpu"), CpuEngine(), metrics, place)


def main() -> None:
    """Serve what the first argument says."""
    keep_freed_memory()
    servers = {
        "bare": lambda: serve_bare(bare_unary, bare_entry),
        "echo": lambda: serve_bare(echo, echo_entry),
        "uncounted": lambda: serve_ours(Uncounted()),
        "ours": lambda: serve_ours(Metrics()),
    }
    uvloop.run(servers[sys.argv[1]]())


if __name__ == "__main__":
    main()
