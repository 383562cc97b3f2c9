"""Request ids: the caller's where they can be logged, else ours; in the log and in errors."""

from __future__ import annotations

import logging
import os
import re
from typing import Any

import grpc
import pytest

from cass.v1 import cass_pb2 as pb
from cass_server.rpc.request_metadata import request_id
from tests.server.support.in_thread import service
from tests.server.support.processes import LIMIT
from tests.server.support.requests import mask_request
from tests.support.programs import printed

OURS = re.compile(rf"[0-9a-f]{{8}}-{os.getpid()}-\d+")


def bad_request() -> pb.GenerateMaskRequest:
    request = mask_request()
    request.feature_maps.clear()
    return request


def refused(stub: Any, metadata: tuple[tuple[str, str], ...]) -> str:
    """The id that comes with an error."""
    with pytest.raises(grpc.RpcError) as caught:
        stub.GenerateMask(bad_request(), timeout=LIMIT, metadata=metadata)
    trailing = dict(caught.value.trailing_metadata())
    assert set(trailing) == {"grpc-status-details-bin", "x-request-id"}
    return str(trailing["x-request-id"])


def logged(caplog: pytest.LogCaptureFixture) -> list[str]:
    """The ids of the lines so far."""
    return [record.request_id for record in caplog.records]  # type: ignore[attr-defined]


@pytest.mark.parametrize("given", ["a", "job-7/batch 12", "~" * 128])
def test_the_callers_id_is_taken(given: str, caplog: pytest.LogCaptureFixture) -> None:
    with service() as stub, caplog.at_level(logging.INFO, "cass_server"):
        metadata = (("other", "thing"), ("x-request-id", given), ("x-request-id", "second"))
        assert refused(stub, metadata) == given
    assert logged(caplog) == [given]


@pytest.mark.parametrize("metadata", [(), (("x-request-id", "~" * 129),), (("x-request-id", ""),)])
def test_otherwise_one_is_made(
    metadata: tuple[tuple[str, str], ...], caplog: pytest.LogCaptureFixture
) -> None:
    """Each a new one, which begins like the others of this process."""
    with service() as stub, caplog.at_level(logging.INFO, "cass_server"):
        ids = [refused(stub, metadata) for _ in range(3)]
    assert logged(caplog) == ids
    assert len(set(ids)) == 3
    assert all(OURS.fullmatch(each) for each in ids)
    assert len({each.rpartition("-")[0] for each in ids}) == 1


def test_the_requests_of_a_stream_have_its_id(caplog: pytest.LogCaptureFixture) -> None:
    entries = [pb.StreamMasksRequest(request=bad_request())] * 2
    with service() as stub, caplog.at_level(logging.INFO, "cass_server"):
        metadata = (("x-request-id", "stream-1"),)
        answers = list(stub.StreamMasks(iter(entries), timeout=LIMIT, metadata=metadata))
    assert [answer.error.field for answer in answers] == ["feature_map"] * 2
    assert logged(caplog) == ["stream-1"] * 2


@pytest.mark.parametrize("value", ["two\nlines", "tab\t", "ü", "\x7f", b"bytes"])
def test_what_could_forge_a_line_is_not_taken(value: str | bytes) -> None:
    """gRPC's own clients do not send such; others may."""
    assert OURS.fullmatch(request_id([("x-request-id", value)]))


def test_two_processes_do_not_make_the_same_ids() -> None:
    make = "from cass_server.rpc.request_metadata import request_id; print(request_id([]))"
    assert printed("-c", make) != printed("-c", make)
