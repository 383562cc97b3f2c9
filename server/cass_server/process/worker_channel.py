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

from cass_server.config.settings import Settings
from cass_server.observability.metrics import Metrics

READY = b"R"
"""Sent by a worker once it serves."""
# -P: what lies in the folder that the server was started in is none of its modules.
COMMAND = (sys.executable, "-P", "-m", "cass_server.process.worker")
"""Starts a worker of the server; see `worker_environment`."""

_DESCRIPTOR = "CASS_WORKER_CHANNEL"
_INDEX = "CASS_WORKER_INDEX"
_SETTINGS = "CASS_WORKER_SETTINGS"
_PORT = "CASS_WORKER_PORT"
_METRICS = "CASS_WORKER_METRICS"


def worker_environment(settings: Settings, port: int) -> dict[str, str]:
    """The variables of the server's workers."""
    return {**os.environ, _SETTINGS: settings.model_dump_json(), _PORT: str(port)}


def worker_arguments() -> tuple[Settings, int, Metrics]:
    """What this process was given: settings and port by `worker_environment`, and its metrics."""
    settings = Settings.model_validate_json(os.environ[_SETTINGS])
    return settings, int(os.environ[_PORT]), Metrics(int(os.environ[_METRICS]))


def start_worker(
    command: Sequence[str],
    index: int,
    environment: Mapping[str, str],
    metrics: int | None = None,
    stderr: int | None = None,
) -> tuple[subprocess.Popen[bytes], socket.socket]:
    """Starts a worker; returns it and the supervisor's end of its channel, which does not block.

    It counts in the `shared_memory` of the descriptor ``metrics``. It is in a process group of its
    own, so that a terminal's Ctrl-C does not reach it. Raises `OSError` if the command cannot be
    run.
    """
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    with theirs:
        variables = {_DESCRIPTOR: str(theirs.fileno()), _INDEX: str(index)}
        inherited = [theirs.fileno()]
        if metrics is not None:
            variables[_METRICS] = str(metrics)
            inherited.append(metrics)
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stderr=stderr,
                env={**environment, **variables},
                pass_fds=inherited,
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
