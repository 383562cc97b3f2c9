"""The RPCs of ``inference.GRPCInferenceService``."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from google.protobuf.message import DecodeError, Message

from cass.inference import grpc_predict_v2_pb2 as pb
from cass_core import __version__
from cass_core.errors import InvalidRequest
from cass_server.observability.methods import INFERENCE_NAME
from cass_server.open_inference import models
from cass_server.open_inference.answers import error_answer
from cass_server.open_inference.envelope import envelope
from cass_server.open_inference.reader import InferReader
from cass_server.rpc.servicer import Host, Info, Opener, Service, Unary
from cass_server.rpc.status import message_of
from cass_server.rpc.streams import StreamKind

M = TypeVar("M", bound=Message)

# Extensions of the protocol, as Triton calls them.
_EXTENSIONS = ("model_configuration",)
# The longest of the requests that name a model, or nothing.
_MOST_BYTES = 1 << 10


def open_inference(host: Host) -> Service:
    """The service, answered by a server's request layer."""
    answerer, limits = host.answerer, host.limits
    small_fill = answerer.engine.small_fill
    read = InferReader(limits, small_fill)
    stream = StreamKind(
        "ModelStreamInfer", InferReader(limits, small_fill, streamed=True), _entry_of
    )
    openers: dict[str, Opener] = {
        "ModelInfer": Unary("ModelInfer", read, answerer).open,
        "ModelStreamInfer": host.streams.opener(stream),
    }

    def add(name: str, kind: type[M], answer: Callable[[M], Message]) -> None:
        def serialized(data: bytes) -> bytes:
            return answer(_parse(data, kind)).SerializeToString()

        openers[name] = Info(name, serialized, answerer, host.helper_pool).open

    add("ServerLive", pb.ServerLiveRequest, lambda _: pb.ServerLiveResponse(live=True))
    add(
        "ServerReady",
        pb.ServerReadyRequest,
        lambda _: pb.ServerReadyResponse(ready=host.is_serving()),
    )
    add(
        "ServerMetadata",
        pb.ServerMetadataRequest,
        lambda _: pb.ServerMetadataResponse(
            name=models.PLATFORM, version=__version__, extensions=_EXTENSIONS
        ),
    )
    add(
        "ModelReady",
        pb.ModelReadyRequest,
        lambda request: pb.ModelReadyResponse(
            ready=models.is_known(request.name, request.version) and host.is_serving()
        ),
    )
    add("ModelMetadata", pb.ModelMetadataRequest, _metadata)
    add("ModelConfig", pb.ModelConfigRequest, _config)
    return Service(pb.DESCRIPTOR, INFERENCE_NAME, openers)


def _metadata(request: pb.ModelMetadataRequest) -> pb.ModelMetadataResponse:
    models.check_known(request.name, request.version)
    return models.metadata(request.name)


def _config(request: pb.ModelConfigRequest) -> pb.ModelConfigResponse:
    models.check_known(request.name, request.version)
    return models.config(request.name)


def _parse(data: bytes, kind: type[M]) -> M:
    name = kind.DESCRIPTOR.full_name
    if len(data) > _MOST_BYTES:
        raise InvalidRequest("request", f"has {len(data)} bytes, {name} has {_MOST_BYTES} at most")
    try:
        return kind.FromString(data)
    except DecodeError:
        raise InvalidRequest("request", f"is not a {name}") from None


def _entry_of(error: Exception, data: bytes) -> bytes:
    """The entry of a stream for an error, with the id of its request where that can be read."""
    try:
        identity = envelope(data).id
    except InvalidRequest:
        identity = b""
    return error_answer(message_of(error), identity[:500])
