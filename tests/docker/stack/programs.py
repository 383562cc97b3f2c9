"""Programs of Debian's packages that tests run."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from tests.docker.engine import LIMIT


def program(name: str) -> str:
    """Path of an installed program; the test is skipped without."""
    # Debian has servers where only root looks.
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/bin")
    if found is None:
        pytest.skip(f"needs {name}, of Debian's haproxy or prometheus")
    return found


def promtool(*arguments: object) -> None:
    """Run Prometheus' checks, which have to pass."""
    done = subprocess.run(
        [program("promtool"), *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=LIMIT,
        check=False,
    )
    assert done.returncode == 0, done.stdout
