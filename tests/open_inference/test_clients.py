"""Clients that we did not write, in an environment of their own: the answers of `CassClient`."""

from __future__ import annotations

import re

import pytest

from tests.e2e.pages import page, programs
from tests.open_inference.environment import in_environment

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("client", ["triton_client", "kserve_client"])
def test_the_same_answers_in_one_process_with_our_own_client(address: str, client: str) -> None:
    """Single calls, calls at a time, asyncio and streams."""
    assert in_environment("-m", f"tests.open_inference.{client}", address) == "the same\n"


def test_the_page_shows_what_runs(address: str) -> None:
    text = page("docs/open-inference.md")
    (program,) = programs(text)
    (printed,) = re.findall(r"It prints `([^`]*)`", text)
    assert in_environment("-c", program.replace("localhost:50051", address)) == f"{printed}\n"


def test_our_messages_are_those_of_the_protocol() -> None:
    """Fields by name, number and type, in Triton's own modules and in KServe's."""
    for module in ("triton", "kserve"):
        printed = in_environment("-m", "tests.open_inference.messages", module)
        assert printed == "the same\n", module
