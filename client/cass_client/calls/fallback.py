"""Local answers while the server cannot be reached, so that training never stops."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from typing import TypeVar

from cass_client.calls.unary import ask_info
from cass_client.errors import Unauthenticated
from cass_client.transport.connection import PeerBase
from cass_client.transport.effects import Compute, Probe, Steps
from cass_core.errors import CassError, InvalidRequest

T = TypeVar("T")
_PROBE_SECONDS = 5.0


class FallbackWarning(RuntimeWarning):
    """The server cannot be reached; the same numbers come from this process."""


def or_locally(peer: PeerBase, remote: Steps[T], local: Callable[[], T]) -> Steps[T]:
    """What the server answers, or the same computed here if it does not.

    A request that is wrong, or a caller who is not let in, is told so as ever. While the server is
    out it is not waited for again: every now and then it is probed in the background.
    """
    if peer.breaker.is_open:
        if not peer.is_cut_off and peer.breaker.take_probe():
            yield Probe(lambda: _probe(peer))
    else:
        try:
            answer = yield from remote
        except (InvalidRequest, Unauthenticated):
            raise
        except CassError as error:
            if peer.breaker.failed():
                # Not by `warn`, which shows the same text once: each outage is told.
                warnings.warn_explicit(
                    f"{error}; masks and losses are computed in this process until it is back",
                    FallbackWarning,
                    "cass_client",  # no line of ours is what this is about
                    0,
                    registry={},
                )
        else:
            peer.breaker.worked()
            return answer
    peer.local_answers += 1
    computed: T = yield Compute(local)
    return computed


def _probe(peer: PeerBase) -> Steps[None]:
    try:
        yield from ask_info(peer, min(peer.timeout, _PROBE_SECONDS))
    except CassError:
        peer.look_up_again(time.monotonic())
        peer.breaker.failed()
        raise
    peer.breaker.probed()
