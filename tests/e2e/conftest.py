"""Two ways to talk to the server that tests share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from cass.v1 import cass_pb2_grpc
from cass_client import CassClient
from tests.support.servers import ServerProcess


@pytest.fixture(scope="session")
def remote(server: ServerProcess) -> Iterator[CassClient]:
    """The SDK on it."""
    with CassClient(server.address, timeout=60) as client:
        yield client


@pytest.fixture(scope="session")
def stub(server: ServerProcess) -> Iterator[Any]:
    """The bare service, for requests that the SDK would not send."""
    with grpc.insecure_channel(server.address) as channel:
        yield cass_pb2_grpc.CassServiceStub(channel)
