"""Connect and gRPC-Web, written out as their protocols describe them: the bytes are gRPC's."""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from google.protobuf import json_format
from google.rpc import error_details_pb2, status_pb2

from cass.convert import loss_result, masks_of
from cass.v1 import cass_pb2 as pb
from cass_core import MaskSpec, compute_loss, generate_mask
from tests.server.support.engines import HoldingEngine
from tests.server.support.http import Running, running_http
from tests.server.support.requests import loss_request, mask_request

SERVICE = "/cass.v1.CassService"
PROTO, WEB = "application/proto", "application/grpc-web+proto"
MASK = generate_mask([np.array([[8, 8, 24, 24]])], (32, 32), (4, 4), MaskSpec())


@pytest.fixture(scope="module")
def service() -> Iterator[Running]:
    """One for all."""
    with running_http() as started:
        yield started


def framed(*messages: bytes) -> bytes:
    """Messages with flags and length before each."""
    return b"".join(struct.pack(">BI", 0, len(message)) + message for message in messages)


def frames(body: bytes) -> list[tuple[int, bytes]]:
    """Flags and content of each."""
    found = []
    while body:
        flags, length = struct.unpack(">BI", body[:5])
        found.append((flags, body[5 : 5 + length]))
        assert len(body) >= 5 + length
        body = body[5 + length :]
    return found


def is_mask(data: bytes) -> bool:
    """Whether a `GenerateMaskResponse` has the one mask of `mask_request`."""
    masks, owners, weights = masks_of(pb.GenerateMaskResponse.FromString(data))
    assert not owners
    assert not weights
    return len(masks) == 1 and np.array_equal(masks[0], MASK)


def test_connect(service: Running) -> None:
    data = mask_request().SerializeToString()
    answer = service.post(f"{SERVICE}/GenerateMask", data, content_type=PROTO)
    assert (answer.status, answer.headers["content-type"]) == (200, PROTO)
    assert is_mask(answer.body)
    loss = loss_request().SerializeToString()
    answer = service.post(f"{SERVICE}/ComputeLoss", loss, content_type=PROTO)
    expected = compute_loss(np.zeros((1, 4, 4), np.float32), MASK, return_grad=True)
    got = loss_result(pb.ComputeLossResponse.FromString(answer.body))
    assert got.loss == expected.loss
    assert np.array_equal(got.grad, expected.grad)
    answer = service.post(f"{SERVICE}/GetServerInfo", b"", content_type=PROTO)
    assert pb.GetServerInfoResponse.FromString(answer.body).device == "cpu"


def test_connect_with_json(service: Running) -> None:
    text = json_format.MessageToJson(mask_request()).encode()
    answer = service.post(f"{SERVICE}/GenerateMask", text)
    assert answer.status == 200
    assert is_mask(json_format.Parse(answer.body, pb.GenerateMaskResponse()).SerializeToString())
    text = json_format.MessageToJson(loss_request()).encode()
    loss = json_format.Parse(
        service.post(f"{SERVICE}/ComputeLoss", text).body, pb.ComputeLossResponse()
    )
    assert loss.normalizer == 16
    assert json.loads(service.post(f"{SERVICE}/GetServerInfo", b"{}").body)["device"] == "cpu"


def test_grpc_web(service: Running) -> None:
    body = framed(mask_request().SerializeToString())
    answer = service.post(f"{SERVICE}/GenerateMask", body, content_type=WEB, x_grpc_web="1")
    assert (answer.status, answer.headers["content-type"]) == (200, WEB)
    (flags, message), (last, trailers) = frames(answer.body)
    assert (flags, last) == (0, 0x80)
    assert is_mask(message)
    assert b"grpc-status: 0\r\n" in trailers


def _stream(service: Running, kind: str, *messages: bytes) -> list[tuple[int, bytes]]:
    answer = service.post(f"{SERVICE}/StreamMasks", framed(*messages), content_type=kind)
    assert (answer.status, answer.headers["content-type"]) == (200, kind)
    return frames(answer.body)


def test_streams(service: Running) -> None:
    """In their order, an error for an entry; by Connect, in JSON too, and gRPC-Web."""
    bad = mask_request(side=9)
    bad.boxes.counts.append(7)
    requests = [pb.StreamMasksRequest(request=one) for one in (mask_request(), bad, mask_request())]
    for kind, end in ((WEB, 0x80), ("application/connect+proto", 2)):
        data = [one.SerializeToString() for one in requests]
        *entries, (last, _) = _stream(service, kind, *data)
        answers = [pb.StreamMasksResponse.FromString(entry) for _, entry in entries]
        assert [answer.WhichOneof("result") for answer in answers] == ["masks", "error", "masks"]
        assert is_mask(answers[2].masks.SerializeToString())
        assert (answers[1].error.code, answers[1].error.field) == (3, "boxes.counts")
        assert last == end
    texts = [json_format.MessageToJson(one).encode() for one in requests]
    *entries, (last, end_text) = _stream(service, "application/connect+json", *texts)
    found = [json.loads(entry) for _, entry in entries]
    assert found[1]["error"]["field"] == "boxes.counts"
    assert found[0] == found[2]
    assert (last, json.loads(end_text)) == (2, {})


def _violation(packed: bytes) -> tuple[str, str]:
    bad = error_details_pb2.BadRequest.FromString(packed)
    return bad.field_violations[0].field, bad.field_violations[0].description


def test_errors(service: Running) -> None:
    """As each protocol tells them, with the details that gRPC's callers get."""
    bad = mask_request()
    bad.boxes.counts.append(7)
    data = bad.SerializeToString()
    reason = "add up to 8, but there are 1 boxes"
    answer = service.post(f"{SERVICE}/GenerateMask", data, content_type=PROTO)
    assert answer.status == 400
    assert answer.json["code"] == "invalid_argument"
    assert answer.json["message"] == f"boxes.counts: {reason}"
    (detail,) = answer.json["details"]
    assert detail["type"] == "google.rpc.BadRequest"
    assert _violation(base64.b64decode(detail["value"] + "==")) == ("boxes.counts", reason)
    web = service.post(f"{SERVICE}/GenerateMask", framed(data), content_type=WEB)
    trailers = {**web.headers}
    if web.body:
        text = frames(web.body)[-1][1].decode()
        trailers |= dict(line.split(": ", 1) for line in text.split("\r\n") if line)
    assert (web.status, trailers["grpc-status"]) == (200, "3")
    status = status_pb2.Status.FromString(
        base64.b64decode(trailers["grpc-status-details-bin"] + "==")
    )
    assert status.message == f"boxes.counts: {reason}"
    assert _violation(status.details[0].value) == ("boxes.counts", reason)


@pytest.mark.parametrize(
    ("body", "kind", "status"),
    [
        (b"\xff\xff", PROTO, 400),
        (b"nothing", "application/json", 400),
        (b"[" * 100000, "application/json", 400),
        (b'{"boxes":{"counts":[' + b"0," * 50000 + b"0]}}", "application/json", 400),
        (b'{"dtype":"DATA_TYPE_INT9"}', "application/json", 400),
        (b"", "application/x-www-form-urlencoded", 415),
        (b"", "", 415),
        (b"", "application/grpc", 415),
        (b"", "application/grpc+proto", 415),
        (b"", "application/grpc-web-text", 415),
    ],
)
def test_what_is_no_message(service: Running, body: bytes, kind: str, status: int) -> None:
    answer = service.post(f"{SERVICE}/GenerateMask", body, content_type=kind)
    assert answer.status == status
    if status == 400:
        assert answer.json["message"].startswith(("request: ", "feature_map: "))
        assert len(answer.body) < 3000


def test_headers_that_are_no_text(service: Running) -> None:
    answer = service.post(f"{SERVICE}/GenerateMask", b"", content_type=PROTO, x_user_agent="\xff")
    assert (answer.status, answer.error["field"]) == (400, "headers")
    assert service.post("/v1/masks", {}, x_user_agent="\xff").status == 400


def test_only_post(service: Running) -> None:
    """A GET comes from any page."""
    path = f"{SERVICE}/GetServerInfo?connect=v1&encoding=json&message=%7B%7D"
    assert service.get(path).status == 405
    assert service.post("/cass.v1.CassService/Nothing", b"", content_type=PROTO).status == 404


def test_the_inside_stays_inside() -> None:
    """A failure is counted, logged and told as INTERNAL, in all protocols."""
    with running_http(HoldingEngine(holds=False)) as service:
        data = mask_request(5).SerializeToString()
        connect = service.post(f"{SERVICE}/GenerateMask", data, content_type=PROTO)
        assert connect.status == 500
        plain = {"boxes": [[[8, 8, 24, 24]]] * 5, "image_size": [32, 32], "feature_map": [4, 4]}
        friendly = service.post("/v1/masks", plain)
        assert friendly.status == 500
        for text in (connect.body, friendly.body):
            assert b"internal error; see the server's log" in text
            assert b"secret" not in text
        assert service.ended() == {("GenerateMask", "INTERNAL"): 2}
        service.assert_all_is_given_back()


def test_what_is_counted() -> None:
    with running_http() as service:
        good: Any = mask_request().SerializeToString()
        service.post(f"{SERVICE}/GenerateMask", good, content_type=PROTO)
        service.post(f"{SERVICE}/GenerateMask", b"\xff", content_type=PROTO)
        entry = pb.StreamMasksRequest(request=mask_request()).SerializeToString()
        _stream(service, "application/connect+proto", entry, entry)
        service.post(f"{SERVICE}/GetServerInfo", b"", content_type=PROTO)
        assert service.ended() == {
            ("GenerateMask", "OK"): 1,
            ("GenerateMask", "INVALID_ARGUMENT"): 1,
            ("StreamMasks", "OK"): 2,
            ("GetServerInfo", "OK"): 1,
        }
        service.assert_all_is_given_back()
