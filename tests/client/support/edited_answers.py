"""A server that edits its answers, which are otherwise those of the core."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from concurrent import futures
from typing import Any

import grpc
import numpy as np

from cass import convert
from cass.contract import SERVICE_NAME
from cass.v1 import cass_pb2 as pb
from cass_client import AsyncCassClient, CassClient
from cass_core.cpu.backend import compute_losses
from tests.client.support.small_servers import masks_of, running, tensor

Edit = Callable[[Any], Any]
"""Changes an answer, or returns another one: a message or bytes."""


class EditingServer:
    """Answers every method.

    Attributes:
        address: where it serves.
        edit: of the answers of unary calls; None to leave them as they are.
        entries: the answers of a stream in place of an answer; each may be edited.
        info: the answer to `GetServerInfo`.
        metadata: sent after each answer.
        calls: the names of the methods that were called.
    """

    def __init__(self) -> None:
        self.address = ""
        self.edit: Edit | None = None
        self.entries: Callable[[pb.StreamMasksResponse], list[Any]] = lambda entry: [entry]
        self.info: Any = pb.GetServerInfoResponse()
        self.metadata: tuple[tuple[str, str], ...] = ()
        self.calls: list[str] = []

    def edited(self, edit: Edit) -> None:
        """Edits the answers of all methods, those of streams too."""

        def entries(entry: pb.StreamMasksResponse) -> list[Any]:
            masks = edit(entry.masks)
            return [masks if isinstance(masks, bytes) else pb.StreamMasksResponse(masks=masks)]

        self.edit, self.entries = edit, entries

    def masks(self, request: pb.GenerateMaskRequest, context: Any) -> Any:
        """Answers `GenerateMask`."""
        return self._answer("GenerateMask", masks_of(request), context)

    def loss(self, request: pb.ComputeLossRequest, context: Any) -> Any:
        """Answers `ComputeLoss`."""
        inputs = convert.loss_inputs(request)
        found = compute_losses(inputs)
        answer = pb.ComputeLossResponse(
            loss=tensor(found.loss, found.loss.dtype.name),
            sum=found.total,
            normalizer=found.normalizer,
        )
        if found.grad is not None:
            answer.grad.CopyFrom(tensor(found.grad, inputs.logits_dtype))
        return self._answer("ComputeLoss", answer, context)

    def server_info(self, _: Any, context: Any) -> Any:
        """Answers `GetServerInfo`."""
        self.calls.append("GetServerInfo")
        return self.info

    def stream(self, requests: Any, _: Any) -> Iterator[Any]:
        """Answers `StreamMasks`."""
        self.calls.append("StreamMasks")
        for request in requests:
            yield from self.entries(pb.StreamMasksResponse(masks=masks_of(request.request)))

    def _answer(self, method: str, answer: Any, context: Any) -> Any:
        self.calls.append(method)
        context.set_trailing_metadata(self.metadata)
        return answer if self.edit is None else self.edit(answer)


@contextlib.contextmanager
def editing_server() -> Iterator[EditingServer]:
    """A server on a port of its own."""
    service = EditingServer()
    unary, stream = grpc.unary_unary_rpc_method_handler, grpc.stream_stream_rpc_method_handler
    handlers = {
        name: make(answer, request.FromString, _serialized)
        for name, make, answer, request in (
            ("GenerateMask", unary, service.masks, pb.GenerateMaskRequest),
            ("ComputeLoss", unary, service.loss, pb.ComputeLossRequest),
            ("GetServerInfo", unary, service.server_info, pb.GetServerInfoRequest),
            ("StreamMasks", stream, service.stream, pb.StreamMasksRequest),
        )
    }
    server = grpc.server(futures.ThreadPoolExecutor(4))
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(SERVICE_NAME, handlers)])
    with running(server) as service.address:
        yield service


def _serialized(answer: Any) -> bytes:
    return answer if isinstance(answer, bytes) else answer.SerializeToString()


def with_async_client(like: CassClient, ask: Callable[[AsyncCassClient], Any]) -> Any:
    """What is asked of an asynchronous client with the same settings."""

    async def run() -> Any:
        client = AsyncCassClient.__new__(AsyncCassClient)
        client.__setstate__(like.__getstate__())
        async with client:
            return await ask(client)

    return asyncio.run(run())


def array_of(message: pb.Tensor) -> Any:
    """The elements of a tensor of float32 or int32."""
    kind = np.int32 if message.dtype == pb.DATA_TYPE_INT32 else np.float32
    return np.frombuffer(message.data, kind).reshape(message.shape)


def replaced(make: Callable[[Any], tuple[Any, str]]) -> Callable[[pb.Tensor], Any]:
    """Makes another tensor of the right array."""
    return lambda message: message.CopyFrom(tensor(*make(array_of(message))))


def without(field: str) -> Edit:
    """Leaves a field out."""

    def edit(answer: Any) -> Any:
        answer.ClearField(field)
        return answer

    return edit


def cut(message: pb.Tensor) -> None:
    """Takes four bytes of the data away."""
    message.data = message.data[:-4]
