"""The SDK, a bare stub and Triton's client, each of which imports its own stack alone.

Other imports would change a process's allocator, and Triton's environment has only the checkout.
"""

from __future__ import annotations

import contextlib
import queue
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from benchmarks.common.workload import CHANNEL_OPTIONS, IMAGE_SIZE, SPEC, boxes_of
from benchmarks.rpc.triton_server import NAME as TRITON_MODEL

_READY_SECONDS = 120.0


class Client(NamedTuple):
    """Makes a call, or keeps a number of requests in flight until a time; gives writable masks."""

    unary: Callable[[], Any]
    stream: Callable[[int, float], Iterator[Any]]


def ours(address: str, stride: str, dtype: str) -> Client:
    """The SDK."""
    from cass_client import CassClient, MaskRequest

    client = CassClient(address)
    boxes, feature_map = boxes_of(stride)

    def stream(in_flight: int, end: float) -> Iterator[Any]:
        def requests() -> Iterator[MaskRequest]:
            while time.perf_counter() < end:
                yield MaskRequest(boxes, IMAGE_SIZE, feature_map, SPEC, dtype)

        yield from client.stream_masks(requests(), in_flight=in_flight)

    return Client(
        lambda: client.generate_mask(boxes, IMAGE_SIZE, feature_map, SPEC, dtype=dtype), stream
    )


def bare(address: str, stride: str, _: str) -> Client:
    """A caller without an SDK."""
    import grpc

    from cass.v1 import cass_pb2 as pb

    boxes, feature_map = boxes_of(stride)
    xyxy, counts = np.asarray(boxes.xyxy), [int(count) for count in boxes.counts]
    channel = grpc.insecure_channel(address, CHANNEL_OPTIONS)
    form = (pb.BoxBatch.SerializeToString, pb.Tensor.FromString)
    unary: Any = channel.unary_unary("/Bare/Unary", *form)
    streamed: Any = channel.stream_stream("/Bare/Stream", *form)

    def request() -> pb.BoxBatch:
        return pb.BoxBatch(xyxy=xyxy.tobytes(), counts=[*counts, *feature_map])

    def masks(tensor: pb.Tensor) -> Any:
        return np.frombuffer(tensor.data, np.float32).reshape(tensor.shape).copy()

    def stream(in_flight: int, end: float) -> Iterator[Any]:
        requests: queue.SimpleQueue[pb.BoxBatch | None] = queue.SimpleQueue()
        for _ in range(in_flight):
            requests.put(request())
        for tensor in streamed(iter(requests.get, None)):
            yield masks(tensor)
            requests.put(request() if time.perf_counter() < end else None)

    unary(request(), wait_for_ready=True)
    return Client(lambda: masks(unary(request())), stream)


def triton(address: str, stride: str, _: str) -> Client:
    """Triton's own client, once the model is loaded.

    Raises:
        TimeoutError: it takes too long.
    """
    import tritonclient.grpc  # type: ignore[import-not-found]

    library = tritonclient.grpc
    client = library.InferenceServerClient(address)
    boxes, feature_map = boxes_of(stride)
    arrays: dict[str, tuple[str, Any]] = {
        "boxes": ("FP32", np.asarray(boxes.xyxy)),
        "counts": ("INT64", np.asarray(boxes.counts, np.int64)),
        "feature_map": ("INT64", np.array(feature_map)),
    }

    def inputs() -> list[Any]:
        made = []
        for name, (dtype, array) in arrays.items():
            made.append(library.InferInput(name, array.shape, dtype))
            made[-1].set_data_from_numpy(array)
        return made

    def stream(in_flight: int, end: float) -> Iterator[Any]:
        answers: queue.SimpleQueue[tuple[Any, Any]] = queue.SimpleQueue()
        client.start_stream(lambda result, error: answers.put((result, error)))
        for _ in range(in_flight):
            client.async_stream_infer(TRITON_MODEL, inputs())
        awaited = in_flight
        while awaited:
            result, error = answers.get()
            if error is not None:
                raise error
            yield result.as_numpy("mask")
            awaited -= 1
            if time.perf_counter() < end:
                client.async_stream_infer(TRITON_MODEL, inputs())
                awaited += 1
        client.stop_stream()

    limit = time.monotonic() + _READY_SECONDS
    while time.monotonic() < limit:
        with contextlib.suppress(library.InferenceServerException):
            if client.is_model_ready(TRITON_MODEL):
                return Client(lambda: client.infer(TRITON_MODEL, inputs()).as_numpy("mask"), stream)
        time.sleep(0.2)
    raise TimeoutError("Triton's model is not ready")


STACKS = {"ours": ours, "bare": bare, "triton": triton}
