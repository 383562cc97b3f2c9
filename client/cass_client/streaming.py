"""Masks for one request after another over a stream that is resumed when it breaks."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import grpc

from cass import wire
from cass.v1 import cass_pb2 as pb
from cass_client.errors import Unavailable
from cass_client.exchange import read
from cass_client.peer import PeerBase
from cass_client.requests import MaskRequest, Masks
from cass_client.splitting import split_masks
from cass_client.steps import END, Close, Give, Open, Read, Steps, StreamSteps, Take, Write
from cass_core.errors import CassError, InvalidRequest
from cass_core.masks import MaskInputs

_MOST_IN_FLIGHT = 1024


class Streaming:
    """The steps of a stream: each request has one answer, in their order, whatever becomes of it.

    What was not answered when a stream broke is asked for again on the next one, from another
    replica if there is one. What a stream cannot answer is asked for alone, with all that a
    single call does about failures.

    Args:
        peer: the server; None if all are answered alone.
        in_flight: how many requests are taken ahead of their answers.
        alone: the steps that answer one request.

    Raises:
        InvalidRequest: ``in_flight`` is out of its range.
    """

    def __init__(
        self,
        peer: PeerBase | None,
        in_flight: int,
        alone: Callable[[MaskInputs], Steps[Masks]],
    ) -> None:
        if type(in_flight) is not int or not 1 <= in_flight <= _MOST_IN_FLIGHT:
            raise InvalidRequest(
                "in_flight",
                f"must be a whole number from 1 to {_MOST_IN_FLIGHT}, got {in_flight!r}",
            )
        self._peer = peer
        self._in_flight = in_flight
        self._alone = alone
        self._waiting: deque[_Waiting] = deque()
        self._ended = False
        self._error: Exception | None = None

    def steps(self) -> StreamSteps[None]:
        """The steps until the last answer.

        Raises:
            Exception: what the caller's requests raised, once all that came before are answered.
        """
        yield from self._fill()
        while self._waiting:
            answered = False
            peer = self._peer
            if peer is not None and not (peer.breaker.is_open or peer.is_cut_off):
                answered = yield from self._until_it_breaks(peer)
            if self._waiting and not answered:
                inputs = self._waiting.popleft().inputs
                answer = yield from self._alone(inputs)
                yield Give(inputs, answer)
                yield from self._fill()
        if self._error is not None:
            raise self._error

    def _until_it_breaks(self, peer: PeerBase) -> StreamSteps[bool]:
        """Open a stream and use it; whether anything was answered."""
        opened = time.monotonic()
        try:
            yield Open()
        except Unavailable:
            return False  # whoever asks next is told, if it is still so
        for waiting in self._waiting:
            yield from _write(waiting, peer)
        answered = False
        while self._waiting:
            answer = None
            try:
                if self._waiting[0].is_written:
                    message: bytes | None = yield Read()
                    if message is None:
                        break
                    answer = _masks(message, peer)
            except grpc.RpcError as status:
                if not answered and status.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
                    peer.leave(opened)
                break  # whoever asks next is told, if it is still so
            except CassError:
                break
            inputs = self._waiting.popleft().inputs
            if answer is None:
                answer = yield from self._alone(inputs)
            yield Give(inputs, answer)
            answered = True
            yield from self._fill(peer)
        yield Close()
        return answered

    def _fill(self, peer: PeerBase | None = None) -> StreamSteps[None]:
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
                waiting = _Waiting(request.check())
            except Exception as error:
                self._ended, self._error = True, error
                return
            self._waiting.append(waiting)
            if peer is not None:
                yield from _write(waiting, peer)


@dataclass(slots=True)
class _Waiting:
    """A request that is not answered yet."""

    inputs: MaskInputs
    is_written: bool = False


def _write(waiting: _Waiting, peer: PeerBase) -> StreamSteps[None]:
    """Write a request, unless the server is known to take it in parts alone."""
    limits = peer.limits
    waiting.is_written = limits is None or len(split_masks(waiting.inputs, limits)) == 1
    if waiting.is_written:
        yield Write(wire.stream_request_bytes(waiting.inputs))


def _masks(message: bytes, peer: PeerBase) -> Masks | None:
    """The masks of an entry; None if it is an error."""
    entry, views = read(message, pb.StreamMasksResponse, peer)
    if entry.WhichOneof("result") != "masks":
        return None
    return wire.masks_and_owners(entry.masks, views, "masks.")
