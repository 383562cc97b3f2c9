"""The files in which a process keeps services' replicas on Ray for the processes it starts."""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import TypeAlias

Addresses: TypeAlias = tuple[str, ...]

FOLDER_VARIABLE = "_CASS_RAY_LISTS"
"""The environment variable with the folder of the files; not one of the server's settings."""

_LOOK_SECONDS = 1.0
_PREFIX = "cass-ray-"
_UNUSED_SECONDS = 3600.0


def make_folder() -> Path:
    """A new folder for the files of this process, removed at its end.

    Those of processes that were killed, as Ray's workers are, are removed here.
    """
    for other in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):
            if time.time() > other.stat().st_mtime + _UNUSED_SECONDS:
                shutil.rmtree(other)
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
    atexit.register(_remove, folder, os.getpid())
    return folder


def _remove(folder: Path, process: int) -> None:
    if process == os.getpid():  # and no fork of it
        shutil.rmtree(folder, ignore_errors=True)


def write_list(file: Path, addresses: Addresses | None) -> None:
    """Writes a list, None if it is not known yet; readers meet the old one or the new one.

    Writing every few seconds shows that the process lives. Where it fails (the disk is full, the
    process is about to end) the old list stays.
    """
    new = file.with_name(f".{file.name}")
    with contextlib.suppress(OSError):
        new.write_text(json.dumps(addresses), encoding="utf-8")
        new.replace(file)


class ListFile:
    """The list of a service as its file has it, read about once a second.

    It stays in force when the file is gone, as it is once the process that kept it has ended.
    """

    def __init__(self, service: str) -> None:
        self._service = service
        self._known: Addresses | None = None
        self._exists = False
        self._looked = -_LOOK_SECONDS

    @property
    def exists(self) -> bool:
        """Whether the file has ever been read."""
        self.read()
        return self._exists

    def read(self) -> Addresses | None:
        """The list; None if it is not known."""
        now = time.monotonic()
        if not self._known or now >= self._looked + _LOOK_SECONDS:
            self.look()
            self._looked = now
        return self._known

    def look(self) -> None:
        """Reads the file now."""
        folder = os.environ.get(FOLDER_VARIABLE)
        if folder is None:
            return
        try:
            known = json.loads((Path(folder) / self._service).read_text(encoding="utf-8"))
        except (OSError, ValueError):  # it is gone, or damaged
            return
        self._known = None if known is None else tuple(known)
        self._exists = True
