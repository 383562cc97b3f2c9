"""Python programs that tests run to their end."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Mapping
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
