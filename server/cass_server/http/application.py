"""The ASGI application: who answers a request, by its path."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from cass_server.config.limits import Limits
from cass_server.engines.base import Engine
from cass_server.http.calls import Calls
from cass_server.http.connect import ConnectService
from cass_server.http.cors import Origins
from cass_server.http.errors import NoSuchPath
from cass_server.http.exchange import Exchange, Receive, Scope, Send, current
from cass_server.http.json_api import JsonApi
from cass_server.observability.call import Metadata
from cass_server.observability.metrics import Metrics
from cass_server.rpc.answerer import Answerer
from cass_server.scheduling.admission import Admission
from cass_server.scheduling.compute_pool import ComputePool
from cass_server.scheduling.deadlines import Deadlines

# Of the compute pool, as `cass-server` has them on one core.
_THREADS = 2
# Characters of a path in the log.
_PATH_LENGTH = 200

_log = logging.getLogger(__name__)


class HttpApplication:
    """An ASGI application that answers by a server's request layer.

    Args:
        answerer: computes, and counts.
        allows: whether a caller may, by the request's headers; None lets everybody.
        origins: those whose pages may ask; ``*`` is all.
        is_serving: whether the server is warm and does not stop.
    """

    def __init__(
        self,
        answerer: Answerer,
        allows: Callable[[Metadata], bool] | None = None,
        origins: Sequence[str] = (),
        is_serving: Callable[[], bool] = lambda: True,
    ) -> None:
        self._answerer = answerer
        self._calls = Calls(answerer, allows)
        self._origins = Origins(origins)
        self._json = JsonApi(self._calls, is_serving)
        self._connect = ConnectService(self._calls)
        self.close = self._calls.close

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a request, as ASGI has it."""
        if scope["type"] != "http":
            raise ValueError(f"there is only HTTP here, no {scope['type']}")
        exchange = Exchange(scope, receive, send, self._answerer, self._calls.is_closed)
        current.set(exchange)
        try:
            await self._answer(exchange)
        except Exception as error:  # a fault of ours: refusals are answered below
            _log.exception("request failed", extra={"path": scope["path"][:_PATH_LENGTH]})
            if not exchange.has_started:
                await exchange.fail(error)
        finally:
            exchange.end()

    async def _answer(self, exchange: Exchange) -> None:
        is_welcome = self._origins.mark(exchange)
        path = exchange.scope["path"]
        is_known = path in self._json.paths or path in self._connect.rpcs
        if is_known and is_welcome and exchange.scope["method"] == "OPTIONS":
            await self._origins.answer_preflight(exchange)
        elif path in self._json.paths:
            await self._json.answer(self._json.paths[path], exchange)
        elif path in self._connect.rpcs:
            await self._connect.answer(exchange)
        else:
            await exchange.fail(NoSuchPath(path))


def app(
    engine: Engine,
    *,
    limits: Limits = Limits(),  # noqa: B008 - frozen
    allows: Callable[[Metadata], bool] | None = None,
    origins: Sequence[str] = (),
) -> HttpApplication:
    """An ASGI application that computes in this process, for `serving` or any ASGI server.

    Args:
        engine: where to compute; see `cass_server.engines.choice.make_engine`.
        limits: of requests.
        allows: whether a caller may, by the request's headers (names in lower case); None lets
            everybody.
        origins: those whose pages may ask, as in ``https://labels.example``; ``*`` is all.

    Example:
        >>> from cass_server.engines.base import CpuEngine
        >>> from cass_server.http import serving
        >>> from urllib.request import urlopen
        >>> with serving(app(CpuEngine())) as address:
        ...     urlopen(f"http://{address}/healthz").read()
        b'{"status":"SERVING"}'
    """
    answerer = Answerer(engine, Admission(limits), Deadlines(), ComputePool(_THREADS), Metrics())
    return HttpApplication(answerer, allows, origins)
