"""The playground as an ASGI application: page, pictures and service, for one person alone."""

from __future__ import annotations

import asyncio
import hmac
import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qs

from cass_cli.playground.scenes import DataSet, Scenes, Streets
from cass_client.client import CassClient
from cass_core.errors import CassError, InvalidRequest
from cass_server.http.exchange import Application, Receive, Scope, Send

_PAGE = Path(__file__).parent / "page"
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".json": "application/json",
    ".jpg": "image/jpeg",
}
# Own files and own pictures alone; what a file is called or a server answers can run nothing.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
_HEADERS = {
    "content-security-policy": _POLICY,
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",  # the address has the token
    "x-content-type-options": "nosniff",
}
_HOSTS = ("127.0.0.1", "localhost")
_SCENE = re.compile(r"(street|data)/(\d{1,9})(\.json|\.jpg)")


class _Answer(NamedTuple):
    status: int
    suffix: str
    body: bytes
    cache: str = "no-store"


class Playground:
    """Answers under a path that begins with its token, to pages of its own alone.

    Args:
        service: the HTTP service; its paths that begin with ``v1/`` and its ``openapi.json`` are
            there under the token too.
        client: whom the service asks in the end; for its version and device.
        data: what to page through, or None for drawn streets.
        token: the first part of every path.
    """

    def __init__(
        self, service: Application, client: CassClient, data: DataSet | None, *, token: str
    ) -> None:
        self.token = token
        self._service = service
        self._client = client
        self._data = data
        self._scenes: dict[str, Scenes] = {"street": Streets()}
        if data is not None:
            self._scenes["data"] = data
        self._files = {
            path.relative_to(_PAGE).as_posix(): path.read_bytes()
            for path in _PAGE.rglob("*")
            if path.is_file()
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI has it."""
        if scope["type"] != "http":
            await self._service(scope, receive, send)
            return
        path = scope["path"][len(self.token) + 2 :]
        answer = self._refused(scope)
        if answer is None and (path.startswith("v1/") or path == "openapi.json"):
            inner = {**scope, "path": f"/{path}", "raw_path": f"/{path}".encode()}
            await self._service(inner, receive, send)
            return
        if answer is None and scope["method"] not in ("GET", "HEAD"):
            answer = _error(405, "only GET is answered here")
        if answer is None:
            answer = await asyncio.to_thread(self._answer, path, scope["query_string"])
        headers = {
            **_HEADERS,
            "content-type": _TYPES[answer.suffix],
            "content-length": str(len(answer.body)),
            "cache-control": answer.cache,
        }
        listed = [(name.encode(), value.encode()) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": answer.status, "headers": listed})
        body = b"" if scope["method"] == "HEAD" else answer.body
        await send({"type": "http.response.body", "body": body})

    def _refused(self, scope: Scope) -> _Answer | None:
        """Why a request is none of this page's."""
        headers = dict(scope["headers"])
        host = headers.get(b"host", b"").decode("latin-1")
        # Another name for this machine is one that a foreign page made up.
        if host.rpartition(":")[0] not in _HOSTS:
            return _error(403, "this is for 127.0.0.1 alone")
        origin = headers.get(b"origin")
        if origin is not None and origin.decode("latin-1") != f"http://{host}":
            return _error(403, "this is for its own page alone")
        prefix = scope["path"][: len(self.token) + 2]
        if not hmac.compare_digest(prefix.encode(), f"/{self.token}/".encode()):
            return _error(404, "open the address that cass playground printed")
        return None

    def _answer(self, path: str, query: bytes) -> _Answer:
        try:
            return self._found(path, query) or _error(404, f"there is no {path}")
        except InvalidRequest as error:
            return _error(404, str(error))
        except CassError as error:
            return _error(503, str(error))

    def _found(self, path: str, query: bytes) -> _Answer | None:
        file = self._files.get(path or "index.html")
        if file is not None:
            return _Answer(200, Path(path or "index.html").suffix, file)
        if path == "playground.json":
            data = None if self._data is None else self._data.facts()
            return _json({"target": self._client.target, "data": data})
        if path == "server.json":
            return _json(asdict(self._client.info()))
        if path == "data/find" and self._data is not None:
            wanted = parse_qs(query.decode("latin-1")).get("id", [""])[0]
            return _json({"index": self._data.file.index(wanted)})
        scene = _SCENE.fullmatch(path)
        source = None if scene is None else self._scenes.get(scene[1])
        if scene is None or source is None:
            return None
        if scene[3] == ".json":
            return _json(source.scene(int(scene[2])))
        picture = source.picture(int(scene[2]))
        return _Answer(200, ".jpg", picture, "private, max-age=3600")


def _json(value: Any, status: int = 200) -> _Answer:
    return _Answer(status, ".json", json.dumps(value).encode())


def _error(status: int, message: str) -> _Answer:
    return _json({"error": {"message": message}}, status)
