"""Pages of other origins: none may ask unless their origin is named."""

from __future__ import annotations

from collections.abc import Sequence

from cass_server.http.exchange import Exchange

# What a page may send and read beyond what every page may.
_REQUEST_HEADERS = (
    "authorization, cass-timings, connect-protocol-version, connect-timeout-ms, content-type,"
    " grpc-timeout, traceparent, x-grpc-web, x-request-id, x-user-agent"
)
_ANSWER_HEADERS = (
    "grpc-message, grpc-status, grpc-status-details-bin, retry-after, server-timing, x-request-id"
)
_MAX_AGE_SECONDS = 600


class Origins:
    """The origins whose pages may ask; ``*`` is all."""

    def __init__(self, origins: Sequence[str]) -> None:
        self._origins = frozenset(origins)

    def mark(self, exchange: Exchange) -> bool:
        """Adds what lets the page read the answer; whether the request comes from such a page."""
        origin = exchange.header("origin")
        if not self._origins or not origin:
            return False
        if "*" not in self._origins:
            exchange.more_headers.append(("vary", "origin"))
            if origin not in self._origins:
                return False
        exchange.more_headers += (
            ("access-control-allow-origin", "*" if "*" in self._origins else origin),
            ("access-control-expose-headers", _ANSWER_HEADERS),
        )
        return True

    async def answer_preflight(self, exchange: Exchange) -> None:
        """Answers a browser's question whether a page may send a request; `mark` came before."""
        exchange.more_headers += (
            ("access-control-allow-methods", "GET, POST"),
            ("access-control-allow-headers", _REQUEST_HEADERS),
            ("access-control-max-age", str(_MAX_AGE_SECONDS)),
        )
        await exchange.answer(204, b"")
