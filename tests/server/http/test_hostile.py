"""Callers over HTTP who send too much, too slowly, read nothing, or come all at once."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Iterator
from http.client import HTTPConnection
from typing import Any

import numpy as np
import pytest

from cass_server.config.limits import Limits
from cass_server.http import listener
from tests.server.support.engines import HELD, HoldingEngine
from tests.server.support.http import BOXES, JSON, Running, answer_of, running_http
from tests.server.support.in_thread import SLOTS
from tests.server.support.processes import LIMIT, wait_until
from tests.server.support.requests import mask_request

MASKS = "/cass.v1.CassService/GenerateMask"
PROTO = "application/proto"
HOLD = {"boxes": [[[8, 8, 24, 24]]] * HELD, "image_size": [32, 32], "feature_map": [4, 4]}
"""Masks of as many images as `HoldingEngine` holds."""


def head(path: str = "/v1/masks", *lines: str, kind: str = JSON) -> bytes:
    """The head of a POST."""
    first = (f"POST {path} HTTP/1.1", "host: here", f"content-type: {kind}")
    return "\r\n".join((*first, *lines, "", "")).encode()


def all_of(peer: socket.socket) -> bytes:
    """What comes until the connection is closed; a reset ends it too."""
    parts = []
    with contextlib.suppress(ConnectionResetError):
        while part := peer.recv(1 << 16):
            parts.append(part)
    return b"".join(parts)


def answered_well(service: Running) -> bool:
    """Whether another caller gets a mask now."""
    return service.post("/v1/masks", BOXES).status == 200


@contextlib.contextmanager
def calling(service: Running, *bodies: Any, **headers: str) -> Iterator[list[HTTPConnection]]:
    """A request for masks under way on each of as many connections."""
    named = {"content-type": JSON, **headers}
    with contextlib.ExitStack() as stack:
        made = []
        for body in bodies:
            connection = stack.enter_context(contextlib.closing(service.connection()))
            connection.request("POST", "/v1/masks", json.dumps(body), named)
            made.append(connection)
        yield made


@pytest.mark.parametrize("chunked", [True, False])
@pytest.mark.parametrize(("path", "kind"), [("/v1/masks", JSON), (MASKS, PROTO), (MASKS, JSON)])
def test_bodies_are_bounded(path: str, kind: str, chunked: bool) -> None:
    """By what is said and by what comes; nothing of them stays counted."""
    limits = Limits(message_bytes=1 << 20)
    with running_http(limits=limits) as service:
        body = b" " * (3 << 20)
        headers = {"content_type": kind}
        given: Any = (body[at : at + 65536] for at in range(0, len(body), 65536))
        answer = service.ask("POST", path, given if chunked else body, **headers)
        assert answer.status == (413 if path != MASKS else 429)
        # A message in protobuf may have the five bytes before it that gRPC-Web has.
        assert str((1 << 20) + 5 * (kind == PROTO)).encode() in answer.body
        service.assert_all_is_given_back()
        assert answered_well(service)
        assert ("GenerateMask", "RESOURCE_EXHAUSTED") in service.ended()


def test_a_body_that_is_announced_as_too_large_is_not_read() -> None:
    with running_http(limits=Limits(message_bytes=1 << 20)) as service:
        lines = ("content-length: 99999999", "expect: 100-continue")
        with service.raw(head("/v1/masks", *lines)) as peer:
            text = all_of(peer)
        assert text.startswith(b"HTTP/1.1 413 ")
        assert b"100 Continue" not in text


@pytest.mark.parametrize("path", ["/v1/masks", MASKS])
def test_slow_bodies_end_in_time(path: str) -> None:
    """However many of them; a byte now and then is no reason to wait longer."""
    with running_http(limits=Limits(receive_seconds=0.5)) as service:
        peers = [service.raw(head(path, "content-length: 100")) for _ in range(20)]
        assert answered_well(service)
        ends = threading.Event()

        def drip() -> None:
            with contextlib.suppress(OSError):
                while not ends.is_set():
                    peers[0].sendall(b" ")
                    time.sleep(0.05)

        thread = threading.Thread(target=drip)
        thread.start()
        try:
            texts = [all_of(peer) for peer in peers]
        finally:
            ends.set()
            thread.join(LIMIT)
            for peer in peers:
                peer.close()
        expected = b"HTTP/1.1 408 " if path == "/v1/masks" else b"HTTP/1.1 504 "
        assert all(text.startswith(expected) for text in texts[1:])
        service.wait_ended("GenerateMask", "DEADLINE_EXCEEDED", 20)


@pytest.mark.parametrize("sent", [b"", b"POST /v1/masks HTTP/1.1\r\nhost: he"])
def test_silent_connections_end_in_time(sent: bytes) -> None:
    with running_http(limits=Limits(receive_seconds=0.2)) as service, service.raw(sent) as peer:
        assert answered_well(service)
        assert all_of(peer) == b""


def test_heads_are_bounded() -> None:
    with running_http() as service:
        with service.raw(head("/v1/masks", *(f"x-{i}: {'a' * 1000}" for i in range(200)))) as peer:
            assert all_of(peer).startswith(b"HTTP/1.1 4")
        with service.raw(b"nonsense\r\n\r\n") as peer:
            assert all_of(peer).startswith(b"HTTP/1.1 400 ")
        assert answered_well(service)


def test_answers_that_nobody_reads_end_in_time() -> None:
    """And their bytes count as long as they wait."""
    with running_http(limits=Limits(send_seconds=1.0)) as service:
        message = mask_request(side=3000)
        peer = socket.socket()
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        host, port = service.address.split(":")
        with peer:
            peer.settimeout(LIMIT)
            peer.connect((host, int(port)))
            data = message.SerializeToString()
            peer.sendall(head(MASKS, f"content-length: {len(data)}", kind=PROTO) + data)
            wait_until(lambda: service.admission.held_bytes > 36_000_000)
            assert answered_well(service)
            service.assert_all_is_given_back()


def test_connections_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "_MOST_CONNECTIONS", 3)
    with running_http() as service, contextlib.ExitStack() as stack:
        peers = [stack.enter_context(service.raw()) for _ in range(9)]
        # They are accepted one after the other.
        assert [all_of(peer) for peer in peers[3:]] == [b""] * 6
        peers[0].sendall(b"GET /healthz HTTP/1.1\r\nhost: here\r\nconnection: close\r\n\r\n")
        assert all_of(peers[0]).startswith(b"HTTP/1.1 200 ")


def test_a_full_service_says_when_to_come_back() -> None:
    engine = HoldingEngine()
    limits = Limits(requests_in_flight=SLOTS)
    with running_http(engine, limits) as service, calling(service, *[HOLD] * SLOTS) as calls:
        engine.gate.wait_held(SLOTS)
        refused = service.post("/v1/masks", BOXES)
        assert refused.status == 429
        assert refused.error["code"] == "RESOURCE_EXHAUSTED"
        assert refused.error["message"] == f"the server is full: {SLOTS} requests in flight at most"
        assert refused.error["retry_after_seconds"] > 0
        assert int(refused.headers["retry-after"]) >= 1
        data = mask_request().SerializeToString()
        assert service.post(MASKS, data, content_type=PROTO).json["code"] == "resource_exhausted"
        assert service.get("/healthz").status == service.get("/v1/info").status == 200
        engine.gate.open()
        assert [answer_of(call.getresponse()).status for call in calls] == [200] * SLOTS
        service.assert_all_is_given_back()
        assert service.ended()["GenerateMask", "RESOURCE_EXHAUSTED"] == 2


def test_one_connection_has_its_share_of_the_bytes() -> None:
    """A body counts while it comes; another caller has room beside it."""
    limits = Limits(queue_bytes=1 << 20, caller_share=0.5, receive_seconds=LIMIT)
    with running_http(limits=limits) as service:
        lines = ("content-length: 900000",)
        with service.raw(head(MASKS, *lines, kind=PROTO), bytes(700_000)) as peer:
            # Alone, a caller may have any number.
            wait_until(lambda: service.admission.held_bytes >= 600_000)
            assert answered_well(service)
            large = {"logits": np.zeros((1, 25000)).tolist(), "target": [[0] * 25000]}
            assert service.post("/v1/loss", large).status == 429
            peer.close()
        service.assert_all_is_given_back()
        assert service.post("/v1/loss", large).status == 200


def test_large_texts_leave_a_slot_to_others() -> None:
    """Of two slots one reads them, however many there are."""
    logits = {"logits": np.zeros((1, 300_000)).tolist(), "target": [[0]]}
    body, statuses = json.dumps(logits).encode(), []
    with running_http(slots=2) as service:

        def ask() -> None:
            statuses.append(service.post("/v1/loss", body).status)

        threads = [threading.Thread(target=ask) for _ in range(3)]
        with service.pool.heavy(lambda: None):  # as if one were being read
            for thread in threads:
                thread.start()
            service.wait_in_flight(3)
            assert answered_well(service)
            assert not statuses
        for thread in threads:
            thread.join(LIMIT)
        assert statuses == [400] * 3
        service.assert_all_is_given_back()


def test_tokens() -> None:
    """Health and the description need none."""

    def allows(metadata: Any) -> bool:
        return ("authorization", "Bearer right") in list(metadata)

    engine, limits = HoldingEngine(), Limits(requests_in_flight=2, caller_share=0.5)
    with running_http(engine, limits, allows=allows, by_token=True) as service:
        for token in ({}, {"authorization": "Bearer wrong"}):
            refused = service.post("/v1/masks", BOXES, **token)
            assert refused.status == 401
            assert refused.headers["www-authenticate"] == "Bearer"
            assert refused.error["code"] == "UNAUTHENTICATED"
            assert service.get("/v1/info", **token).status == 401
            web = service.post(MASKS, b"", content_type=PROTO, **token)
            assert (web.status, web.json["code"]) == (401, "unauthenticated")
        assert service.get("/healthz").status == service.get("/openapi.json").status == 200
        right = {"authorization": "Bearer right"}
        with calling(service, HOLD, **right) as (call,):
            engine.gate.wait_held()
            # Another connection of the same token, whose share of two requests is one.
            assert service.post("/v1/masks", BOXES, **right).status == 429
            engine.gate.open()
            assert answer_of(call.getresponse()).status == 200


def test_a_caller_who_goes_ends_the_computation() -> None:
    engine = HoldingEngine(checks=True)
    with running_http(engine) as service:
        with calling(service, HOLD):
            engine.gate.wait_held()
        data = mask_request(HELD).SerializeToString()
        with service.raw(head(MASKS, f"content-length: {len(data)}", kind=PROTO), data):
            engine.gate.wait_held()
        # The event loop has noticed by then.
        assert service.post("/v1/loss", {"logits": [[1]], "target": [[1]]}).status == 200
        engine.gate.open()
        service.wait_ended("GenerateMask", "CANCELLED", 2)
        service.assert_all_is_given_back()


@pytest.mark.parametrize("path", ["/v1/masks", MASKS])
def test_a_deadline_ends_a_call(path: str) -> None:
    """While it waits for others, too."""
    engine = HoldingEngine(checks=True)
    with running_http(engine) as service:
        body = HOLD if path == "/v1/masks" else mask_request(HELD).SerializeToString()
        kind = JSON if path == "/v1/masks" else PROTO
        late = service.post(path, body, content_type=kind, connect_timeout_ms="200")
        assert late.status == 504
        code = late.json["code"] if path == MASKS else late.error["code"]
        assert code.upper() == "DEADLINE_EXCEEDED"
        engine.gate.open()
        service.assert_all_is_given_back()
        assert sum(service.ended().values()) == 1


def test_streams_are_bounded() -> None:
    kind = "application/connect+proto"
    with running_http(limits=Limits(streams=1, receive_seconds=LIMIT)) as service:
        path = "/cass.v1.CassService/StreamMasks"

        def ended() -> bytes:
            return service.post(path, b"", content_type=kind).body

        with service.raw(head(path, "transfer-encoding: chunked", kind=kind)):
            wait_until(lambda: b"streams in flight" in ended())
        wait_until(lambda: ended() == b"\x02\0\0\0\2{}")


def test_a_token_has_its_share_of_the_streams() -> None:
    """Of two it may have one, whatever its connections; another token has the other."""
    kind, path = "application/connect+proto", "/cass.v1.CassService/StreamMasks"
    limits = Limits(streams=2, caller_share=0.5, receive_seconds=LIMIT)
    with running_http(limits=limits, allows=lambda _: True, by_token=True) as service:

        def ended(token: str) -> bytes:
            return service.post(path, b"", content_type=kind, authorization=f"Bearer {token}").body

        lines = ("transfer-encoding: chunked", "authorization: Bearer first")
        with service.raw(head(path, *lines, kind=kind)):
            wait_until(lambda: b"streams of one caller" in ended("first"))
            assert ended("second") == b"\x02\0\0\0\2{}"
        wait_until(lambda: ended("first") == b"\x02\0\0\0\2{}")


def test_unfinished_messages_of_streams_count() -> None:
    """And a stream that is silent ends when the service closes."""
    kind, path = "application/connect+proto", "/cass.v1.CassService/StreamMasks"
    with running_http(limits=Limits(receive_seconds=LIMIT)) as service:
        message = b"\0" + (4 << 20).to_bytes(4, "big") + bytes(3 << 20)
        chunk = b"%x\r\n%b\r\n" % (len(message), message)
        with service.raw(head(path, "transfer-encoding: chunked", kind=kind), chunk) as peer:
            wait_until(lambda: service.admission.held_bytes >= 3 << 20)
            service.application.close()
            text = all_of(peer)
        assert text.startswith(b"HTTP/1.1 200 ")
        assert b'"code": "unavailable"' in text
        service.assert_all_is_given_back()


def test_a_closed_service_refuses() -> None:
    with running_http() as service:
        service.application.close()
        answer = service.post("/v1/masks", BOXES)
        assert (answer.status, answer.error["code"]) == (503, "UNAVAILABLE")
        web = service.post(MASKS, b"", content_type=PROTO)
        assert (web.status, web.json["code"]) == (503, "unavailable")
