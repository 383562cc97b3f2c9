"""Where the time of one call goes."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from cass.contract import SERVER_TIMING_KEY

_ENTRY = re.compile(r"(queue|compute|encode);dur=([0-9]+(?:\.[0-9]+)?(?:e[+-]?[0-9]+)?)")


@dataclass(frozen=True, slots=True)
class CallProfile:
    """Seconds of one call; the parts add up to the total.

    Attributes:
        total: from the arguments to the masks.
        pack: checking the arguments and writing the request.
        wait: for gRPC and the network, there and back.
        queue: in the server, until the request was computed.
        compute: in the server's kernels.
        encode: in the server, laying out the answer.
        unpack: reading the answer into arrays.
    """

    total: float
    pack: float = 0.0
    wait: float = 0.0
    queue: float = 0.0
    compute: float = 0.0
    encode: float = 0.0
    unpack: float = 0.0

    def __str__(self) -> str:
        parts = (f"{name} {getattr(self, name) * 1e3:.3f}" for name in self.__slots__)
        return f"ms: {', '.join(parts)}"


def server_timings(metadata: Iterable[tuple[str, str | bytes]]) -> tuple[float, float, float]:
    """Seconds of queue, compute and encode; zeros from a server that does not say.

    Example:
        >>> server_timings([("server-timing", "queue;dur=1.5, compute;dur=3, encode;dur=0.5")])
        (0.0015, 0.003, 0.0005)
    """
    text = next((str(value) for key, value in metadata if key == SERVER_TIMING_KEY), "")
    found = {name: float(value) / 1e3 for name, value in _ENTRY.findall(text)}
    return found.get("queue", 0.0), found.get("compute", 0.0), found.get("encode", 0.0)
