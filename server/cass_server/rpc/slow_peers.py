"""Ends calls whose peers do not send or read in time, and when memory is short those that wait."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import grpc
from grpc import _server
from grpc._cython import cygrpc

from cass.malloc import free_bytes
from cass_server.config.limits import Limits
from cass_server.exceptions import Rejection
from cass_server.observability.call import Metadata
from cass_server.observability.metrics import Metrics
from cass_server.observability.resident import resident_bytes
from cass_server.rpc.answerer import Answerer

# How often memory is looked at: at 10 Gbit/s, 60 MB arrive in between.
_LOOK_SECONDS = 0.05
# So many looks later, the calls that wait for their peers are looked through.
_LOOKS = 10
# What a process may have beside what is in flight, since it was warm.
_MORE_BYTES = 32 << 20
# For so long short memory spares streams that are silent, if there are other calls to end.
_SPARED_SECONDS = 1.0
# Short memory is logged once in so long, however often it comes and goes.
_QUIET_SECONDS = 60.0

_log = logging.getLogger(__name__)


class SlowPeers:
    """Looks through a server's calls now and then, so that none pays for being watched.

    gRPC receives a message as fast as it comes and says nothing of it before it is whole. So what
    is being received is bounded by the memory of the process: beyond a limit, half of the calls
    that wait for their peers are ended, at each look; first those of the caller who has most of
    them, and of these the newest, so that others come to their ends. Streams that are silent are
    spared for a second: what they wait for may be half of a large message.

    Args:
        server: whose calls these are.
        answerer: tells callers apart, and has the bytes in flight.
        limits: of the time to receive a message, and to send an answer.
        metrics: get how many calls wait.
        refused: counts and logs a refused call; returns the status to end it with.
    """

    def __init__(
        self,
        server: grpc.Server,
        answerer: Answerer,
        limits: Limits,
        metrics: Metrics,
        refused: Callable[[str, Metadata, Rejection], grpc.Status],
    ) -> None:
        self._server = getattr(server, "_state", None)
        self._answerer = answerer
        self._limits = limits
        self._metrics = metrics
        self._refused = refused
        self._most_bytes = 0
        # When memory became short, unless it is not; and when that was logged.
        self._short_since: float | None = None
        self._logged = -_QUIET_SECONDS
        self._closed = threading.Event()
        threading.Thread(target=self._look, name="slow peers", daemon=True).start()

    def bound_memory(self) -> None:
        """From now on the process may have so much more resident memory as its limits call for."""
        # Python and gRPC have a copy each of what is in flight.
        room = 2 * max(self._limits.queue_bytes, self._limits.message_bytes)
        self._most_bytes = resident_bytes() + room + _MORE_BYTES

    def close(self) -> None:
        """Look no more."""
        self._closed.set()

    def _look(self) -> None:
        looks, failed = 0, False
        while not self._closed.wait(_LOOK_SECONDS):
            looks += 1
            try:
                now = time.perf_counter()
                if looks % _LOOKS == 0:
                    self._end_late(now)
                self._look_at_memory(now)
                failed = False
            except Exception:  # which is not to be the last look
                self._answerer.admission.is_short = False
                if not failed:
                    _log.exception("calls that wait for their peers cannot be looked through")
                failed = True

    def _look_at_memory(self, now: float) -> None:
        is_short = self._answerer.admission.is_short = self._is_short()
        if not is_short:
            self._short_since = None
            return
        if self._short_since is None:
            self._short_since = now
            if now - self._logged >= _QUIET_SECONDS:
                self._logged = now
                sizes = {"resident_bytes": resident_bytes(), "limit_bytes": self._most_bytes}
                _log.warning("memory is short, calls that wait for their peers end", extra=sizes)
        self._end_half(now, spares_streams=now - self._short_since < _SPARED_SECONDS)

    def _is_short(self) -> bool:
        most, resident = self._most_bytes, resident_bytes()
        # What is free takes longer to find out: a millisecond in a heap of many holes.
        return 0 < most < resident and most < resident - free_bytes()

    def _states(self) -> list[Any]:
        """gRPC's states of the calls that are open, but for those that were refused at once."""
        # A copy, since an iteration may see the set change.
        states: set[Any] = getattr(self._server, "rpc_states", set())
        return [state for state in states.copy() if hasattr(state, "peer")]

    def _end_late(self, now: float) -> None:
        """Cancel calls that have waited for too long, and count the others.

        Streams may be silent, and have a deadline of their own for each answer.
        """
        receiving = sending = 0
        for state in self._states():
            peer = state.peer
            if state.statused or (is_sending(state) and not peer.is_stream):
                sending += 1
                if peer.unread_since is None:
                    peer.unread_since = now
                is_late = now - peer.unread_since >= self._limits.send_seconds
            elif is_receiving(state) and not peer.is_stream:
                receiving += 1
                is_late = peer.is_late = now - peer.started >= self._limits.receive_seconds
            else:
                peer.unread_since = None
                continue
            if is_late:
                _log.debug("peer stalled, call cancelled")
                peer.call.cancel()
        self._metrics.waiting(receiving, sending, self._answerer.admission.held_bytes)
        self._metrics.gpu_memory(self._answerer.engine.gpu_memory_bytes())

    def _end_half(self, now: float, *, spares_streams: bool = True) -> None:
        """End half of the calls that wait for their peers, and half of the silent streams.

        Streams are spared if they are to be, unless nothing else waits.
        """
        old = [state for state in self._states() if now - state.peer.started > _LOOK_SECONDS]
        silent: list[Any] = []
        waiting: list[Any] = []
        for state in old:
            if is_sending(state):
                waiting.append(state)
            elif is_receiving(state):
                (silent if state.peer.is_stream else waiting).append(state)
        self._end_newest(waiting)
        if not waiting or not spares_streams:
            self._end_newest(silent)

    def _end_newest(self, waiting: list[Any]) -> None:
        """End half of these calls: the newest of the callers who have most of them."""
        callers = [self._answerer.caller(s.peer.metadata, s.peer.call.peer()) for s in waiting]
        calls = Counter(callers)
        order = sorted(
            zip(waiting, callers, strict=True),
            key=lambda found: (calls[found[1]], found[0].peer.started),
            reverse=True,
        )
        for state, _ in order[: (len(order) + 1) // 2]:
            self._end(state)

    def _end(self, state: Any) -> None:
        peer = state.peer
        if peer.is_stream or is_sending(state):
            self._metrics.rejected("bytes")
            peer.call.cancel()
        else:
            error = self._answerer.admission.no_room()
            refuse_unreceived(state, lambda: self._refused(peer.path, peer.metadata, error))


def refuse_unreceived(state: Any, refused: Callable[[], grpc.Status]) -> None:
    """Ends a call with the status returned, unless its message has arrived or it is over."""
    with state.condition:
        if not is_receiving(state):
            return
        status = refused()
        state.code, state.details = status.code, status.details.encode()
        state.trailing_metadata = status.trailing_metadata
        _server._abort(state, state.peer.call, cygrpc.StatusCode.unknown, b"")


def is_receiving(state: Any) -> bool:
    """Whether a call waits for a message of its peer."""
    return _server._RECEIVE_MESSAGE_TOKEN in state.due and _server._is_rpc_state_active(state)


def is_sending(state: Any) -> bool:
    """Whether a call waits for its peer to read."""
    return (
        state.statused
        or _server._SEND_MESSAGE_TOKEN in state.due
        or _server._SEND_INITIAL_METADATA_AND_SEND_MESSAGE_TOKEN in state.due
    )
