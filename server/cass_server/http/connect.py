"""The contract's service by Connect and gRPC-Web, whose protocols `connectrpc` brings.

Messages pass through it as bytes: what reads them for gRPC reads them here.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from functools import partial
from typing import Any

from connectrpc.errors import ConnectError
from connectrpc.interceptor import MetadataInterceptor
from connectrpc.method import IdempotencyLevel, MethodInfo, StreamType
from connectrpc.request import RequestContext
from connectrpc.server import ConnectASGIApplication, Endpoint
from google.protobuf import json_format
from google.protobuf.message import Message

from cass.contract import SERVICE, SERVICE_NAME
from cass.v1 import cass_pb2 as pb
from cass_core.arrays import Array
from cass_core.errors import InvalidRequest
from cass_server.config.limits import Limits
from cass_server.exceptions import Stopping
from cass_server.http.calls import JSON_SHARE, Calls, Failed
from cass_server.http.errors import TooLarge, WrongType, connect_error
from cass_server.http.exchange import Exchange, current
from cass_server.http.json_api import MAX_JSON_BYTES
from cass_server.rpc.parsing import read_info
from cass_server.rpc.requests import (
    Layout,
    MaskReader,
    MaskRequest,
    Masks,
    Reader,
    Request,
    read_loss,
)
from cass_server.rpc.servicer import server_info
from cass_server.rpc.status import entry_of

_KINDS: dict[str, tuple[type[Message], type[Message]]] = {
    method.name: (getattr(pb, method.input_type.name), getattr(pb, method.output_type.name))
    for method in SERVICE.methods
}

_GRPC, _GRPC_WEB = "application/grpc", "application/grpc-web"
# Of an error's reason.
_MOST_LETTERS = 500


class JsonMessage(bytes):
    """A message in protobuf's JSON."""


class _Codec:
    """Leaves messages as they are; those in JSON are of a type of their own."""

    def __init__(self, name: str, kind: type[bytes]) -> None:
        self._name = name
        self._kind = kind

    def name(self) -> str:
        """Of the content type."""
        return self._name

    def encode(self, message: bytes) -> bytes:
        """It is serialized already."""
        return message

    def decode(self, data: bytes | bytearray, _: Any) -> bytes:
        """It is parsed in a thread of the compute pool."""
        return self._kind(data)


class _Admission(MetadataInterceptor[None]):
    """Decides on calls before their messages are read."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    async def on_start(self, ctx: RequestContext[Any, Any]) -> None:
        """Refuse a call, or take its deadline."""
        exchange, name = current.get(), ctx.method.name
        timeout = ctx.timeout_ms
        if timeout is not None:
            exchange.context.expires = time.monotonic() + timeout / 1e3
        try:
            self._calls.check(name, exchange)
        except Exception as error:
            self._calls.refuse(name, exchange, error)
            raise connect_error(error) from None


class ConnectService(ConnectASGIApplication[None]):
    """An ASGI application with the RPCs of the contract's service."""

    path = f"/{SERVICE_NAME}"

    def __init__(self, calls: Calls) -> None:
        self._calls = calls
        engine, limits = calls.answerer.engine, calls.limits
        masks = MaskReader(limits, engine.small_fill)
        self._streamed = MaskReader(limits, engine.small_fill, streamed=True)
        losses = partial(read_loss, limits=limits)
        self.rpcs = {f"{self.path}/{method.name}": method.name for method in SERVICE.methods}
        endpoints = (
            Endpoint.unary(_method("GenerateMask"), partial(self._compute, masks)),
            Endpoint.unary(_method("ComputeLoss"), partial(self._compute, losses)),
            Endpoint.unary(_method("GetServerInfo"), self._info),
            Endpoint.bidi_stream(_method("StreamMasks"), self._stream),
        )
        super().__init__(
            service=None,
            endpoints=lambda _: {f"{self.path}/{one.method.name}": one for one in endpoints},
            interceptors=[_Admission(calls)],
            read_max_bytes=limits.message_bytes,
            compressions=(),  # which would compute in the event loop
            codecs=(_Codec("proto", bytes), _Codec("json", JsonMessage)),
        )

    async def answer(self, exchange: Exchange) -> None:
        """Answer a request to one of `rpcs`."""
        kind = exchange.header("content-type")
        if kind.startswith(_GRPC) and not kind.startswith(_GRPC_WEB):
            await exchange.fail(WrongType("Connect's or gRPC-Web's: gRPC has a port of its own"))
            return
        if not _is_text(exchange.scope["headers"]):  # which connectrpc takes for a fault of its own
            await exchange.fail(InvalidRequest("headers", "must be UTF-8"))
            return
        rpc = self.rpcs[exchange.scope["path"]]
        exchange.is_stream = rpc == "StreamMasks"
        if not exchange.is_stream:
            most = self._calls.limits.message_bytes
            exchange.most_bytes = min(most, MAX_JSON_BYTES) if "json" in kind else most + 5

        async def receive() -> Any:
            try:
                return await exchange.receive()
            except Exception as error:
                self._calls.refuse(rpc, exchange, error)
                raise connect_error(error) from None

        await self(exchange.scope, receive, exchange.send)

    async def _compute(self, read: Reader, data: bytes, ctx: RequestContext[bytes, bytes]) -> bytes:
        name, exchange = ctx.method.name, current.get()
        is_json = isinstance(data, JsonMessage)
        if is_json:
            read = _JsonReader(name, read, self._calls.limits)
        try:
            share = JSON_SHARE if is_json else 1
            answer = await self._calls.compute(name, read, data, exchange, share=share)
        except Failed as failed:
            raise connect_error(failed.cause) from None
        return answer

    async def _info(self, data: bytes, ctx: RequestContext[bytes, bytes]) -> bytes:
        exchange, calls = current.get(), self._calls
        try:
            message = _binary(data, ctx.method.name) if isinstance(data, JsonMessage) else data
            read_info(message, calls.limits)
        except InvalidRequest as error:
            calls.refuse(ctx.method.name, exchange, error)
            raise connect_error(error) from None
        answer = server_info(calls.answerer.engine.device, calls.limits).SerializeToString()
        if isinstance(data, JsonMessage):
            answer = _json(answer, ctx.method.name)
        calls.note(ctx.method.name, exchange, len(data), len(answer))
        return bytes(answer)

    async def _stream(
        self, messages: AsyncIterator[bytes], ctx: RequestContext[bytes, bytes]
    ) -> AsyncIterator[bytes]:
        name, exchange, calls = ctx.method.name, current.get(), self._calls
        try:
            with calls.stream(exchange):
                async for data in messages:
                    if calls.is_closed():
                        raise Stopping
                    yield await self._next(name, data, exchange)
        except ConnectError:
            raise
        except Exception as error:
            calls.refuse(name, exchange, error)
            raise connect_error(error) from None

    async def _next(self, name: str, data: bytes, exchange: Exchange) -> bytes:
        is_json = isinstance(data, JsonMessage)
        read: Reader = self._streamed
        if is_json:
            read = _JsonReader(name, read, self._calls.limits)
        try:
            return await self._calls.compute_next(name, read, data, exchange)
        except Failed as failed:
            entry = entry_of(failed.cause)
        return _json(entry, name) if is_json else entry


def _is_text(headers: Sequence[tuple[bytes, bytes]]) -> bool:
    try:
        b"\n".join(part for header in headers for part in header).decode()
    except UnicodeDecodeError:
        return False
    return True


def _method(name: str) -> MethodInfo[bytes, bytes]:
    method = SERVICE.methods_by_name[name]
    kind = StreamType.BIDI_STREAM if method.client_streaming else StreamType.UNARY
    return MethodInfo(
        name=name,
        service_name=SERVICE_NAME,
        input=bytes,
        output=bytes,
        # Not NO_SIDE_EFFECTS, which would mean GET: a page of any origin may send one.
        idempotency_level=IdempotencyLevel.IDEMPOTENT,
        stream_type=kind,
    )


class _JsonReader:
    """Reads messages in JSON; what answers them writes JSON too."""

    def __init__(self, name: str, read: Reader, limits: Limits) -> None:
        self._name = name
        self._read = read
        # Protobuf reads each entry of a list on its own: of boxes' counts, ignored ones', heights,
        # widths, feature maps, and some more of specs.
        self._most_commas = 4 * limits.images + 2 * limits.feature_maps + 256

    def __call__(self, data: bytes) -> Request:
        """The request in a message."""
        if data.count(b",") > self._most_commas:
            raise InvalidRequest("request", f"has more than {self._most_commas} commas")
        request = self._read(_binary(data, self._name))
        if isinstance(request, MaskRequest):
            plan = request.plan
            layout = _JsonLayout(plan.layout, self._name)
            # The message, its base64 and the text.
            return request._replace(
                plan=plan._replace(layout=layout, answer_bytes=4 * plan.answer_bytes)
            )
        write = request.write
        return request._replace(
            write=lambda inputs, result: _json(write(inputs, result), self._name)
        )


class _JsonLayout:
    """A `Layout` of messages in JSON."""

    def __init__(self, base: Layout, name: str) -> None:
        self._base = base
        self._name = name

    def arrays(self) -> Masks:
        """See `Layout`."""
        return self._base.arrays()

    def message(self, *arrays: Sequence[Array]) -> bytes:
        """See `Layout`."""
        return _json(self._base.message(*arrays), self._name)


def _binary(data: bytes, name: str) -> bytes:
    """The serialized request of a method that a text in protobuf's JSON holds."""
    if len(data) > MAX_JSON_BYTES:
        raise TooLarge(MAX_JSON_BYTES)
    message = _KINDS[name][0]()
    try:
        json_format.Parse(data, message, ignore_unknown_fields=True)
    except (json_format.ParseError, ValueError, RecursionError) as error:
        kind = message.DESCRIPTOR.full_name
        reason = f"is not a {kind} in JSON: {error}"
        raise InvalidRequest("request", reason[:_MOST_LETTERS]) from None
    return message.SerializeToString()


def _json(answer: bytes, name: str) -> bytes:
    """A serialized answer of a method in protobuf's JSON."""
    message = _KINDS[name][1].FromString(answer)
    return json_format.MessageToJson(message, indent=None).encode()
