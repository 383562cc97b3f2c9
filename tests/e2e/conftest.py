"""One real server for all end-to-end tests, and two ways to talk to it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from cass.v1 import cass_pb2_grpc
from cass_client import CassClient
from tests.support.servers import ServerProcess, serving


@pytest.fixture(scope="package")
def server() -> Iterator[ServerProcess]:
    """A serving process; it must stop cleanly."""
    with serving() as process:
        yield process
        assert process.stop() == 0


@pytest.fixture(scope="package")
def remote(server: ServerProcess) -> Iterator[CassClient]:
    """The SDK on it."""
    with CassClient(server.address, timeout=60) as client:
        yield client


@pytest.fixture(scope="package")
def stub(server: ServerProcess) -> Iterator[Any]:
    """The bare service, for requests that the SDK would not send."""
    with grpc.insecure_channel(server.address) as channel:
        yield cass_pb2_grpc.CassServiceStub(channel)
