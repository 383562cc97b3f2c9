"""The clients of examples/clients, built in a folder of the test."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.e2e.pages import ROOT

_BUILD_LIMIT = 400.0
_RUN_LIMIT = 100.0
"""Seconds that nothing takes unless it hangs."""

_MADE = ("build", "generated", "node_modules", "__pycache__")
_GO = "/usr/share/gocode/src/google.golang.org"
_NEEDS = {
    "cpp": ("g++", "make", "pkg-config", "grpc_cpp_plugin", "/usr/include/grpcpp/grpcpp.h"),
    "go": ("go", "make", "protoc-gen-go", "protoc-gen-go-grpc", f"{_GO}/grpc", f"{_GO}/protobuf"),
    "typescript": ("node", "npm"),
    "web": ("node", "npm"),
}
"""Programs and libraries by language."""


class Program(NamedTuple):
    """How a client is built and run in its folder."""

    folder: str
    source: str
    build: str
    command: str


_NPM = "npm ci && npm run build"
CLIENTS = {
    "cpp": Program("cpp", "client.cpp", "make", "build/client"),
    "go": Program("go", "client.go", "make", "build/client"),
    "typed": Program("typescript", "typed.ts", _NPM, "node build/typed.js"),
    "proto-loader": Program("typescript", "proto_loader.ts", _NPM, "node build/proto_loader.js"),
    "reflection": Program("python", "reflection.py", "", "python reflection.py"),
}


class Client(NamedTuple):
    """One that has been built."""

    folder: Path
    command: str

    def run(self, *arguments: object) -> subprocess.CompletedProcess[str]:
        """What becomes of it with these arguments."""
        return _run(f"{self.command} {' '.join(map(str, arguments))}", self.folder, _RUN_LIMIT)


class Builder:
    """Builds the clients of each language once, in a folder, beside a copy of the contract."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._built: set[str] = set()
        for name in ("proto", "examples/clients"):
            ignore = shutil.ignore_patterns(*_MADE)
            shutil.copytree(ROOT / name, folder / name, ignore=ignore)

    def client(self, program: Program) -> Client:
        """One of `CLIENTS`.

        Without what its language needs the test is skipped, or fails with TOOLCHAINS_REQUIRED=1.
        """
        missing = [need for need in _NEEDS.get(program.folder, ()) if not _is_there(need)]
        if missing:
            give_up = pytest.fail if os.environ.get("TOOLCHAINS_REQUIRED") == "1" else pytest.skip
            give_up(f"needs {', '.join(missing)}")
        folder = self._folder / "examples" / "clients" / program.folder
        if program.folder not in self._built:
            for step in filter(None, program.build.split(" && ")):
                done = _run(step, folder, _BUILD_LIMIT)
                assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
            self._built.add(program.folder)
        return Client(folder, program.command)


def _is_there(need: str) -> bool:
    return Path(need).exists() if need.startswith("/") else shutil.which(need) is not None


def _run(command: str, folder: Path, limit: float) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    return subprocess.run(
        command.split(),
        cwd=folder,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        timeout=limit,
        check=False,
    )
