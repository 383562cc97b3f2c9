"""The channel between a worker process and its supervisor: a socket pair.

The worker reports that it serves; each end sees the other close.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from cass_server.config.settings import Settings

READY = b"R"
"""Sent by a worker once it serves."""
COMMAND = (sys.executable, "-m", "cass_server.process.worker")
"""Starts a worker of the server; see `worker_environment`."""

_DESCRIPTOR = "CASS_WORKER_CHANNEL"
_INDEX = "CASS_WORKER_INDEX"
_SETTINGS = "CASS_WORKER_SETTINGS"
_PORT = "CASS_WORKER_PORT"
_FOLDER = "CASS_WORKER_FOLDER"


def worker_environment(settings: Settings, port: int, folder: str) -> dict[str, str]:
    """The variables of the server's workers, which count in files ``worker-INDEX`` of a folder."""
    given = {_SETTINGS: settings.model_dump_json(), _PORT: str(port), _FOLDER: folder}
    return {**os.environ, **given}


def worker_arguments() -> tuple[Settings, int, Path]:
    """What `worker_environment` gave to this process: settings, port and folder."""
    settings = Settings.model_validate_json(os.environ[_SETTINGS])
    return settings, int(os.environ[_PORT]), Path(os.environ[_FOLDER])


def start_worker(
    command: Sequence[str], index: int, environment: Mapping[str, str], stderr: int | None = None
) -> tuple[subprocess.Popen[bytes], socket.socket]:
    """Starts a worker; returns it and the supervisor's end of its channel, which does not block.

    It is in a process group of its own, so that a terminal's Ctrl-C does not reach it. Raises
    `OSError` if the command cannot be run.
    """
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    with theirs:
        variables = {_DESCRIPTOR: str(theirs.fileno()), _INDEX: str(index)}
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stderr=stderr,
                env={**environment, **variables},
                pass_fds=(theirs.fileno(),),
                process_group=0,
            )
        except OSError:
            ours.close()
            raise
    return process, ours


class WorkerChannel:
    """A worker's end of the channel.

    Attributes:
        index: the worker's number, from 0; a replacement has the index of the dead worker.
    """

    def __init__(self, end: socket.socket, index: int) -> None:
        self.index = index
        self._end = end
        end.setblocking(False)

    @classmethod
    def from_environment(cls) -> WorkerChannel | None:
        """The channel of this process, which its children do not inherit; None if it has none."""
        number = os.environ.pop(_DESCRIPTOR, None)
        if number is None:
            return None
        os.set_inheritable(int(number), False)
        return cls(socket.socket(fileno=int(number)), int(os.environ[_INDEX]))

    def ready(self) -> None:
        """Report to the supervisor that this worker serves."""
        # A supervisor that is gone is what `wait_lost` waits for.
        with contextlib.suppress(OSError):
            self._end.send(READY)

    def wait_lost(self) -> None:
        """Return when the supervisor is gone, however it ended."""
        # The supervisor sends nothing: a read returns at its end alone.
        with contextlib.suppress(OSError):
            self._end.setblocking(True)
            self._end.recv(1)
