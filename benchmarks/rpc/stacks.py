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

from benchmarks.common.workload import (
    CHANNEL_OPTIONS,
    GENERATE_MASK,
    IMAGE_SIZE,
    SPEC,
    STREAM_MASKS,
    boxes_of,
)
from benchmarks.rpc.triton_server import NAME as TRITON_MODEL

_READY_SECONDS = 120.0
INFERENCE = "inference.GRPCInferenceService"


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


class Method(NamedTuple):
    """A method's path, and its messages: of a request, and of an answer the masks."""

    path: str
    request: Callable[[], Any]
    answer: type[Any]
    masks: Callable[[Any], Any]


def _without_sdk(address: str, single: Method, streamed: Method) -> Client:
    """A caller with nothing but gRPC and protobuf."""
    import grpc

    channel = grpc.insecure_channel(address, CHANNEL_OPTIONS)

    def form(method: Method) -> tuple[Any, Any]:
        return type(method.request()).SerializeToString, method.answer.FromString

    unary: Any = channel.unary_unary(single.path, *form(single))
    streams: Any = channel.stream_stream(streamed.path, *form(streamed))

    def stream(in_flight: int, end: float) -> Iterator[Any]:
        requests: queue.SimpleQueue[Any] = queue.SimpleQueue()
        for _ in range(in_flight):
            requests.put(streamed.request())
        for answer in streams(iter(requests.get, None)):
            yield streamed.masks(answer)
            requests.put(streamed.request() if time.perf_counter() < end else None)

    unary(single.request(), wait_for_ready=True)
    return Client(lambda: single.masks(unary(single.request())), stream)


def bare(address: str, stride: str, _: str) -> Client:
    """A caller of a bare server."""
    from cass.v1 import cass_pb2 as pb

    boxes, feature_map = boxes_of(stride)
    xyxy, counts = np.asarray(boxes.xyxy), [int(count) for count in boxes.counts]

    def request() -> pb.BoxBatch:
        return pb.BoxBatch(xyxy=xyxy.tobytes(), counts=[*counts, *feature_map])

    form = (request, pb.Tensor, _masks)
    return _without_sdk(address, Method("/Bare/Unary", *form), Method("/Bare/Stream", *form))


def _masks(tensor: Any) -> Any:
    return np.frombuffer(tensor.data, np.float32).reshape(tensor.shape).copy()


def stub(address: str, stride: str, dtype: str) -> Client:
    """A caller of our own service without its SDK."""
    from cass.specs import mask_spec_message
    from cass.v1 import cass_pb2 as pb

    boxes, (height, width) = boxes_of(stride)
    xyxy, counts = np.asarray(boxes.xyxy), [int(count) for count in boxes.counts]

    def request() -> pb.GenerateMaskRequest:
        return pb.GenerateMaskRequest(
            boxes=pb.BoxBatch(xyxy=xyxy.tobytes(), counts=counts),
            image_sizes=pb.ImageSizes(heights=IMAGE_SIZE[:1], widths=IMAGE_SIZE[1:]),
            feature_maps=[pb.FeatureMap(height=height, width=width)],
            mask_spec=mask_spec_message(SPEC),
        )

    return _without_sdk(
        address,
        Method(GENERATE_MASK, request, pb.GenerateMaskResponse, lambda one: _masks(one.masks[0])),
        Method(
            STREAM_MASKS,
            lambda: pb.StreamMasksRequest(request=request()),
            pb.StreamMasksResponse,
            lambda entry: _masks(entry.masks.masks[0]),
        ),
    )


def inference(address: str, stride: str, _: str) -> Client:
    """The same by the Open Inference Protocol."""
    from cass.inference import grpc_predict_v2_pb2 as pb

    boxes, feature_map = boxes_of(stride)
    arrays: dict[str, tuple[str, Any]] = {
        "BOXES": ("FP32", np.asarray(boxes.xyxy)),
        "COUNTS": ("INT64", np.asarray(boxes.counts, np.int64)),
        "IMAGE_SIZES": ("INT32", np.array([IMAGE_SIZE], np.int32)),
        "FEATURE_MAPS": ("INT32", np.array([feature_map], np.int32)),
    }
    tensor = pb.ModelInferRequest.InferInputTensor

    def request() -> pb.ModelInferRequest:
        return pb.ModelInferRequest(
            model_name="cass_mask",
            inputs=[
                tensor(name=name, datatype=datatype, shape=array.shape)
                for name, (datatype, array) in arrays.items()
            ],
            raw_input_contents=[array.tobytes() for _, array in arrays.values()],
        )

    def masks(response: Any) -> Any:
        (raw,), (output,) = response.raw_output_contents, response.outputs
        return np.frombuffer(raw, np.float32).reshape(output.shape).copy()

    return _without_sdk(
        address,
        Method(f"/{INFERENCE}/ModelInfer", request, pb.ModelInferResponse, masks),
        Method(
            f"/{INFERENCE}/ModelStreamInfer",
            request,
            pb.ModelStreamInferResponse,
            lambda entry: masks(entry.infer_response),
        ),
    )


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


STACKS = {"ours": ours, "bare": bare, "stub": stub, "inference": inference, "triton": triton}
