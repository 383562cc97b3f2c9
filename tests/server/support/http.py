"""The service over HTTP in threads of the test's process, and requests to it as bytes."""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPResponse
from typing import Any

from cass_server.config.limits import Limits
from cass_server.engines.base import CpuEngine, Engine
from cass_server.http.application import HttpApplication
from cass_server.http.listener import serving
from cass_server.observability.call import Metadata
from cass_server.observability.metrics import Metrics
from cass_server.rpc.answerer import Answerer
from cass_server.scheduling.admission import Admission
from cass_server.scheduling.compute_pool import ComputePool
from cass_server.scheduling.deadlines import Deadlines
from tests.server.support.observed import Counted
from tests.server.support.processes import LIMIT, wait_until

JSON = "application/json"
BOXES: Mapping[str, Any] = {
    "boxes": [[[8, 8, 24, 24]]],
    "image_size": [32, 32],
    "feature_map": [4, 4],
}
"""A request for masks, the one of `mask_request`."""

_deadlines = Deadlines()


@dataclass(frozen=True)
class Answer:
    """What came back.

    Attributes:
        headers: names in lower case.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body, which must be what JSON is."""
        return json.loads(self.body, parse_constant=_refuse)

    @property
    def error(self) -> dict[str, Any]:
        """The error in the body."""
        assert self.headers["content-type"] == JSON
        error: dict[str, Any] = self.json["error"]
        return error


def _refuse(constant: str) -> None:
    raise AssertionError(f"{constant} is no JSON")


@dataclass(frozen=True)
class Running(Counted):
    """A service, and those of its parts that a test may look at."""

    address: str
    metrics: Metrics
    admission: Admission
    pool: ComputePool
    application: HttpApplication

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        """Send a request on a connection of its own; underscores in headers are hyphens."""
        with contextlib.closing(self.connection()) as connection:
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, body, named)
            return answer_of(connection.getresponse())

    def connection(self) -> HTTPConnection:
        """A connection, which the caller closes."""
        return HTTPConnection(self.address, timeout=LIMIT)

    def get(self, path: str, **headers: str) -> Answer:
        """GET."""
        return self.ask("GET", path, **headers)

    def post(self, path: str, content: Any, **headers: str) -> Answer:
        """POST of JSON, or of bytes as they are."""
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        return self.ask("POST", path, body, **{"content_type": JSON, **headers})

    def raw(self, *parts: bytes) -> socket.socket:
        """A connection on which these have been sent; the caller closes it."""
        host, port = self.address.split(":")
        peer = socket.create_connection((host, int(port)), timeout=LIMIT)
        for part in parts:
            peer.sendall(part)
        return peer

    def wait_ended(self, method: str, code: str, number: int = 1) -> None:
        """Return once so many requests have ended so."""
        wait_until(lambda: self.ended().get((method, code)) == number)

    def assert_all_is_given_back(self) -> None:
        """Fails unless soon neither a request nor a byte counts as in flight."""
        self.wait_in_flight(0)
        wait_until(lambda: self.admission.held_bytes == 0)


def answer_of(response: HTTPResponse) -> Answer:
    """All of a response."""
    headers = {name.lower(): value for name, value in response.getheaders()}
    return Answer(response.status, headers, response.read())


@contextlib.contextmanager
def running_http(
    engine: Engine | None = None,
    limits: Limits | None = None,
    *,
    allows: Callable[[Metadata], bool] | None = None,
    by_token: bool = False,
    origins: Sequence[str] = (),
    slots: int = 4,
    is_serving: Callable[[], bool] = lambda: True,
) -> Iterator[Running]:
    """A service on a loopback port; see `tests.server.support.in_thread.running`."""
    limits, metrics = limits or Limits(), Metrics()
    admission = Admission(limits)
    pool = ComputePool(slots)
    answerer = Answerer(
        engine or CpuEngine(), admission, _deadlines, pool, metrics, by_token=by_token
    )
    application = HttpApplication(answerer, allows, origins, is_serving)
    with serving(application, limits=limits) as address:
        yield Running(address, metrics, admission, pool, application)
