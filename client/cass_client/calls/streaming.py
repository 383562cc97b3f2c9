"""Masks for one request after another over a stream that is resumed when it breaks."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import grpc

from cass import convert
from cass.codec.encode import stream_request
from cass.features import features_of
from cass.v1 import cass_pb2 as pb
from cass_client.arguments import MaskRequest, Masks
from cass_client.calls import answers
from cass_client.calls.chunking import split_masks
from cass_client.errors import ServerError, Unavailable
from cass_client.transport.connection import Connection
from cass_client.transport.effects import (
    END,
    Effects,
    Give,
    Open,
    OpenStream,
    Read,
    Take,
)
from cass_core.errors import InvalidRequest
from cass_core.inputs import MaskInputs

_MOST_IN_FLIGHT = 1024


class Streaming:
    """The effects of a stream: each request has exactly one answer, in order.

    Requests without an answer when a stream breaks are sent again on the next one, to another
    replica if there is one. What a stream cannot answer, and all without a connection, is sent
    `alone`, with all that a single call does about failures. A wrong answer is the request's error,
    with which `alone` fails, and the stream's end.
    """

    def __init__(
        self,
        connection: Connection | None,
        in_flight: int,
        alone: Callable[[MaskInputs, ServerError | None], Effects[Masks]],
    ) -> None:
        if type(in_flight) is not int or not 1 <= in_flight <= _MOST_IN_FLIGHT:
            raise InvalidRequest(
                "in_flight",
                f"must be a whole number from 1 to {_MOST_IN_FLIGHT}, got {in_flight!r}",
            )
        self._connection = connection
        self._in_flight = in_flight
        self._alone = alone
        self._waiting: deque[_Waiting] = deque()
        self._ended = False
        self._error: Exception | None = None

    def effects(self) -> Effects[None]:
        """The effects until the last answer; then raises what the caller's requests raised."""
        yield from self._fill()
        while self._waiting:
            answered = False
            connection = self._connection
            if connection is not None and not connection.breaker.is_open:
                answered = yield from self._until_it_breaks(connection)
            if self._waiting and not answered:
                waiting = self._waiting.popleft()
                yield Give(waiting.inputs, (yield from self._alone(waiting.taken(), None)))
                yield from self._fill()
        if self._error is not None:
            raise self._error

    def _until_it_breaks(self, connection: Connection) -> Effects[bool]:
        """Open a stream and use it; whether anything was answered."""
        opened = time.monotonic()
        try:
            stream: OpenStream = yield Open()
        except Unavailable:
            return False  # the next call reports it, if it is still so
        try:
            return (yield from self._over(stream, opened, connection))
        finally:
            stream.close()

    def _over(self, stream: OpenStream, opened: float, connection: Connection) -> Effects[bool]:
        """Use a stream that was opened at that time; whether anything was answered."""

        def write(waiting: _Waiting) -> None:
            limits = connection.limits
            # What the server is known to take in parts alone is not for a stream, nor what it is
            # not known to understand.
            waiting.is_written = features_of(waiting.inputs) <= (connection.features or set()) and (
                limits is None or len(split_masks(waiting.inputs, limits)) == 1
            )
            if waiting.is_written:
                stream.write(waiting.message)

        for waiting in self._waiting:
            write(waiting)
        read, answered = Read(stream), False
        while self._waiting:
            waiting, answer, wrong = self._waiting[0], None, None
            try:
                if waiting.is_written:
                    message: bytes | None = yield read
                    if message is None:
                        break
                    answer = answers.read(answers.entry, message, waiting.inputs, connection.target)
            except grpc.RpcError as status:
                if not answered and status.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
                    connection.drop(opened)
                break  # the next call reports it, if it is still so
            except ServerError as error:
                wrong = error
            self._waiting.popleft()
            if answer is None:
                answer = yield from self._alone(waiting.taken(), wrong)
            yield Give(waiting.inputs, answer)
            answered = True
            if wrong is not None:
                yield from self._fill()
                break  # the next answer may belong to any request
            yield from self._fill(write)
        else:
            yield from self._until_the_end(stream, connection)
        return answered

    def _until_the_end(self, stream: OpenStream, connection: Connection) -> Effects[None]:
        """End a stream after its last answer; one answer more is an error."""
        stream.end()
        try:
            message: bytes | None = yield Read(stream)
        except grpc.RpcError:
            return  # each request has its answer
        if message is not None and self._error is None:
            self._error = ServerError(
                f"{connection.target}: the stream has more answers than requests, so that masks "
                "may be those of other requests"
            )

    def _fill(self, write: Callable[[_Waiting], None] | None = None) -> Effects[None]:
        """Take as many requests as there is room for, and write them if there is a stream."""
        while not self._ended and len(self._waiting) < self._in_flight:
            try:
                request = yield Take()
                if request is END:
                    self._ended = True
                    return
                if not isinstance(request, MaskRequest):
                    raise InvalidRequest(
                        "requests", f"must be of MaskRequest, got {type(request).__name__}"
                    )
                inputs = request.inputs()
                waiting = _Waiting(inputs, stream_request(inputs))
            except Exception as error:
                self._ended, self._error = True, error
                return
            self._waiting.append(waiting)
            if write is not None:
                write(waiting)


@dataclass(slots=True)
class _Waiting:
    """A request without an answer."""

    inputs: MaskInputs  # the arrays are the caller's, who may fill them anew
    message: bytes
    is_written: bool = False

    def taken(self) -> MaskInputs:
        """The inputs as they were when they were taken, with the boxes as a NumPy array."""
        return convert.mask_inputs(pb.StreamMasksRequest.FromString(self.message).request)
