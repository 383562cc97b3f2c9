"""Python programs that tests run."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

LIMIT = 100.0
"""Seconds that no program takes unless it hangs."""


def ended(
    *arguments: object, env: Mapping[str, str] | None = None, limit: float = LIMIT, **options: Any
) -> subprocess.CompletedProcess[str]:
    """What becomes of Python with these arguments.

    Args:
        arguments: of the command line; what follows ``-c`` may be indented.
        env: variables beside the test's own.
        limit: seconds.
        options: of `subprocess.run`.
    """
    return subprocess.run(
        [sys.executable, *(textwrap.dedent(str(argument)) for argument in arguments)],
        env={**os.environ, **(env or {})},
        capture_output=True,
        text=True,
        timeout=limit,
        check=False,
        **options,
    )


def printed(*arguments: object, **options: Any) -> str:
    """What Python with these arguments prints; it must end well."""
    done = ended(*arguments, **options)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@contextlib.contextmanager
def running_program(code: str, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    """Python with this code, which has printed a line by now; killed at the end."""
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline()
            yield process
        finally:
            process.kill()
