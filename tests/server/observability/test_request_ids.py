"""Request ids: the caller's where they can be logged, else ours; in the log and in errors."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator
from typing import Any

import pytest

from cass.v1 import cass_pb2 as pb
from cass_server.observability.request_metadata import request_id
from tests.server.support.details import fails
from tests.server.support.in_thread import Running, running
from tests.server.support.processes import LIMIT
from tests.server.support.requests import mask_request
from tests.support.programs import printed

OURS = re.compile(rf"[0-9a-f]{{8}}-{os.getpid()}-\d+")
BAD = mask_request(maps=0)


@pytest.fixture
def server(caplog: pytest.LogCaptureFixture) -> Iterator[Running]:
    with running() as started, caplog.at_level(logging.INFO, "cass_server"):
        yield started


def refused(server: Running, *metadata: tuple[str, str]) -> str:
    """The id that comes with an error."""
    with fails("INVALID_ARGUMENT") as caught:
        server.stub.GenerateMask(BAD, timeout=LIMIT, metadata=metadata)
    trailing = dict(caught.value.trailing_metadata())
    assert set(trailing) == {"grpc-status-details-bin", "x-request-id"}
    return str(trailing["x-request-id"])


def logged(caplog: pytest.LogCaptureFixture) -> list[str]:
    """The ids of the lines so far."""
    return [vars(record)["request_id"] for record in caplog.records]


@pytest.mark.parametrize("given", ["a", "job-7/batch 12:3 {~}", "~" * 128])
def test_the_callers_id_is_taken(
    server: Running, given: str, caplog: pytest.LogCaptureFixture
) -> None:
    metadata = (("other", "thing"), ("x-request-id", given), ("x-request-id", "second"))
    assert refused(server, *metadata) == given
    assert logged(caplog) == [given]


@pytest.mark.parametrize("metadata", [(), (("x-request-id", "~" * 129),), (("x-request-id", ""),)])
def test_otherwise_one_is_made(
    server: Running, metadata: tuple[tuple[str, str], ...], caplog: pytest.LogCaptureFixture
) -> None:
    """Each a new one, which begins like the others of this process."""
    ids = [refused(server, *metadata) for _ in range(3)]
    assert logged(caplog) == ids
    assert len(set(ids)) == 3
    assert all(OURS.fullmatch(each) for each in ids)
    assert len({each.rpartition("-")[0] for each in ids}) == 1


def test_the_requests_of_a_stream_have_its_id(
    server: Running, caplog: pytest.LogCaptureFixture
) -> None:
    entries = [pb.StreamMasksRequest(request=BAD)] * 2
    metadata = (("x-request-id", "stream-1"),)
    answers = list(server.stub.StreamMasks(iter(entries), timeout=LIMIT, metadata=metadata))
    assert [answer.error.field for answer in answers] == ["feature_map"] * 2
    assert logged(caplog) == ["stream-1"] * 2


@pytest.mark.parametrize(
    "value", ["two\nlines", "tab\t", "ü", "\u2028", "a\x1b[31m", "\x7f", "a\x00", b"bytes"]
)
def test_what_could_forge_a_line_is_not_taken(value: str | bytes) -> None:
    """gRPC's own clients do not send such; others may."""
    metadata: Any = [("x-request-id", value), ("x-request-id", "second")]
    assert OURS.fullmatch(request_id(metadata))


def test_two_processes_do_not_make_the_same_ids() -> None:
    module = "cass_server.observability.request_metadata"
    make = f"from {module} import request_id; print(request_id([]))"
    assert printed("-c", make) != printed("-c", make)
