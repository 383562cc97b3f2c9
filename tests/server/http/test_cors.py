"""Which origins' pages may ask: none, unless they are named."""

from __future__ import annotations

import pytest

from tests.server.support.http import BOXES, Answer, running_http

HERE, THERE = "https://labels.example", "https://other.example"
MASKS = "/cass.v1.CassService/GenerateMask"


def cors(answer: Answer) -> dict[str, str]:
    """The headers of an answer that browsers decide by."""
    return {
        name: value
        for name, value in answer.headers.items()
        if name.startswith("access-control-allow") or name == "vary"
    }


@pytest.mark.parametrize("path", ["/v1/masks", MASKS])
def test_without_origins(path: str) -> None:
    with running_http() as service:
        ask = {"origin": HERE, "access_control_request_method": "POST"}
        assert service.ask("OPTIONS", path, **ask).status == 405
        answer = service.post(path, BOXES, origin=HERE)
        assert not any(name.startswith("access-control") for name in answer.headers)


@pytest.mark.parametrize("path", ["/v1/masks", MASKS])
def test_named_origins(path: str) -> None:
    """The preflight needs no token; an error can be read as well as an answer."""
    with running_http(origins=[HERE, "http://127.0.0.1:8000"], allows=lambda _: False) as service:
        asked = service.ask("OPTIONS", path, origin=HERE, access_control_request_method="POST")
        assert asked.status == 204
        got = cors(asked)
        assert got["access-control-allow-origin"] == HERE
        assert "POST" in got["access-control-allow-methods"]
        assert {"content-type", "authorization", "connect-protocol-version", "x-grpc-web"} <= set(
            got["access-control-allow-headers"].split(", ")
        )
        assert "origin" in got["vary"]
        refused = service.post(path, BOXES, origin=HERE)
        assert refused.status == 401
        assert refused.headers["access-control-allow-origin"] == HERE
        assert "x-request-id" in refused.headers["access-control-expose-headers"]
        for other in (THERE, "null", f"{HERE}.evil.example", HERE.upper()):
            answer = service.post(path, BOXES, origin=other)
            assert "access-control-allow-origin" not in answer.headers
            assert answer.headers["vary"] == "origin"
            assert service.ask("OPTIONS", path, origin=other).status == 405


def test_all_origins() -> None:
    with running_http(origins=["*"]) as service:
        answer = service.post("/v1/masks", BOXES, origin=THERE)
        assert answer.status == 200
        assert answer.headers["access-control-allow-origin"] == "*"
        assert "access-control-allow-credentials" not in answer.headers
        assert service.ask("OPTIONS", "/nowhere", origin=THERE).status == 404
