"""The environment with the clients of others, which `make inference-clients` makes."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.support.programs import LIMIT

ROOT = Path(__file__).resolve().parents[2]
PYTHON = ROOT / ".venv-inference" / "bin" / "python"


def in_environment(*arguments: str, input: str = "") -> str:
    """What Python prints there; it must end well. Skips where there is none."""
    if not (PYTHON.parents[1] / ".ready").exists():
        pytest.skip("`make inference-clients` brings tritonclient and kserve")
    done = subprocess.run(
        [PYTHON, *arguments],
        cwd=ROOT,
        input=input,
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout
