"""The channel between a worker process and its supervisor: a socket pair.

The worker reports that it serves; each end sees the other close.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
from collections.abc import Mapping, Sequence

from cass_core.errors import CassError

READY = b"R"
"""Sent by a worker once it serves."""

_DESCRIPTOR = "CASS_WORKER_CHANNEL"
_INDEX = "CASS_WORKER_INDEX"


def start_worker(
    command: Sequence[str],
    index: int,
    environment: Mapping[str, str],
    stderr: int | None = None,
) -> tuple[subprocess.Popen[bytes], socket.socket]:
    """Start a process with a channel.

    It is in a process group of its own, so that a terminal's Ctrl-C does not reach it.

    Args:
        command: program and arguments.
        index: which of the workers it is, from 0.
        environment: all its variables but those of the channel.
        stderr: where its standard error goes, as `subprocess.Popen` has it; this process's if None.

    Returns:
        The process, and the supervisor's end of the channel, which does not block.

    Raises:
        OSError: the command cannot be run.
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
        """The channel of this process; None if it has no supervisor.

        Removes it from the environment: children do not inherit it.

        Raises:
            CassError: the environment's variables are not those that a supervisor sets.
        """
        number = os.environ.pop(_DESCRIPTOR, None)
        if number is None:
            return None
        index = os.environ.get(_INDEX, "")
        try:
            position = int(index)
            os.set_inheritable(int(number), False)
            return cls(socket.socket(fileno=int(number)), position)
        except (ValueError, OSError) as error:
            raise CassError(
                f"{_DESCRIPTOR}={number}, {_INDEX}={index}: only a supervisor sets these: {error}"
            ) from error

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
