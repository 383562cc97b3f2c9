"""Clients that we did not write, in an environment of their own: the answers of `CassClient`."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.support.programs import LIMIT

ROOT = Path(__file__).resolve().parents[2]
PYTHON = ROOT / ".venv-inference" / "bin" / "python"

pytestmark = pytest.mark.slow


def in_environment(*arguments: str) -> str:
    """What Python prints in the environment; it must end well."""
    if not (PYTHON.parents[1] / ".ready").exists():
        pytest.skip("`make inference-clients` brings tritonclient and kserve")
    done = subprocess.run(
        [PYTHON, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=LIMIT, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.parametrize("client", ["triton_client", "kserve_client"])
def test_the_same_answers_in_one_process_with_our_own_client(address: str, client: str) -> None:
    """Single calls, calls at a time, asyncio and streams."""
    assert in_environment("-m", f"tests.open_inference.{client}", address) == "the same\n"


def test_our_messages_are_those_of_the_protocol() -> None:
    """Fields by name, number and type, in Triton's own modules and in KServe's."""
    for module in ("triton", "kserve"):
        printed = in_environment("-m", "tests.open_inference.messages", module)
        assert printed == "the same\n", module
