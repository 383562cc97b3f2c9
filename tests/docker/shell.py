"""A shell for commands of pages: `docker` is the engine in it, `cass` is this checkout's."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.docker.conftest import ROOT
from tests.docker.engine import Engine

_SECONDS = 120.0


class Shell:
    """Runs lines in a folder of its own, with other texts in place of some of theirs."""

    def __init__(
        self,
        engine: Engine,
        folder: Path,
        replaced: Mapping[str, str],
        compose: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.folder, self._replaced = folder, replaced
        programs = folder / "bin"
        programs.mkdir()
        (folder / "docker").symlink_to(ROOT / "docker")
        self._env = {**os.environ, **(env or {}), "PATH": f"{programs}:{os.environ['PATH']}"}
        _write(
            programs / "docker",
            f'if [ "$1" = compose ]; then shift; exec {shlex.join(compose)} "$@"; fi\n'
            f'exec {shlex.quote(_found(engine.program))} "$@"\n',
        )
        _write(programs / "cass", f'exec {shlex.quote(sys.executable)} -m cass_cli "$@"\n')

    def start(self, line: str) -> subprocess.Popen[str]:
        """Start a line, which goes on."""
        for text, other in self._replaced.items():
            line = line.replace(text, other)
        return subprocess.Popen(
            ["sh", "-euc", line],
            cwd=self.folder,
            env=self._env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def __call__(self, line: str) -> str:
        """What a line prints; fails unless it exits with 0."""
        with self.start(line) as process:
            told, _ = process.communicate(timeout=_SECONDS)
        assert process.returncode == 0, f"{line}\n{told}"
        return told

    def succeeds(self, line: str) -> bool:
        """Whether a line exits with 0 now."""
        with self.start(line) as process:
            process.communicate(timeout=_SECONDS)
        return process.returncode == 0


def _found(program: str) -> str:
    """Its path, since the name is the shell's own program."""
    return subprocess.run(
        ["sh", "-c", f"command -v {program}"], capture_output=True, text=True, check=True
    ).stdout.strip()


def _write(path: Path, text: str) -> None:
    path.write_text(f"#!/bin/sh\n{text}", encoding="utf-8")
    path.chmod(0o755)
