"""What the tests of wrong answers share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.client.support.edited_answers import EditingServer, editing_server


@pytest.fixture
def editing() -> Iterator[EditingServer]:
    """A server whose answers are right until it is given edits."""
    with editing_server() as server:
        yield server
