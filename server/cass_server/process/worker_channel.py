"""What ties a worker process to its supervisor: a socket pair that tells each of the other."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
from collections.abc import Mapping, Sequence

from cass_core.errors import CassError

READY = b"R"
"""What a worker sends once it serves."""

_NUMBER = "CASS_LIFELINE"
_INDEX = "CASS_WORKER_INDEX"


def start_worker(
    command: Sequence[str],
    index: int,
    environment: Mapping[str, str],
    stderr: int | None = None,
) -> tuple[subprocess.Popen[bytes], socket.socket]:
    """Start a process with a lifeline.

    It is in a process group of its own, so that a terminal's Ctrl-C does not reach it.

    Args:
        command: program and arguments.
        index: which of the workers it is, from 0.
        environment: all its variables but those of the lifeline.
        stderr: where its standard error goes, as `subprocess.Popen` has it; this process's if None.

    Returns:
        The process, and the supervisor's end of the lifeline, which does not block.

    Raises:
        OSError: the command cannot be run.
    """
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    with theirs:
        variables = {_NUMBER: str(theirs.fileno()), _INDEX: str(index)}
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


class Lifeline:
    """A worker's end.

    Attributes:
        index: which of the supervisor's workers this is, from 0; one that takes the place of a
            dead one has its index.
    """

    def __init__(self, end: socket.socket, index: int) -> None:
        self.index = index
        self._end = end
        end.setblocking(False)

    @classmethod
    def from_environment(cls) -> Lifeline | None:
        """The lifeline that this process was started with; None if it has no supervisor.

        Takes it out of the environment: it belongs to this process and not to its children.

        Raises:
            CassError: the environment's variables are not those that a supervisor sets.
        """
        number = os.environ.pop(_NUMBER, None)
        if number is None:
            return None
        index = os.environ.get(_INDEX, "")
        try:
            position = int(index)
            os.set_inheritable(int(number), False)
            return cls(socket.socket(fileno=int(number)), position)
        except (ValueError, OSError) as error:
            raise CassError(
                f"{_NUMBER}={number}, {_INDEX}={index}: only a supervisor sets these: {error}"
            ) from error

    def ready(self) -> None:
        """Tell the supervisor that this worker serves."""
        # A supervisor that is gone is what `wait_lost` waits for.
        with contextlib.suppress(OSError):
            self._end.send(READY)

    def wait_lost(self) -> None:
        """Return when the supervisor is gone, however it ended."""
        # It sends nothing: all there can be to read is the end.
        with contextlib.suppress(OSError):
            self._end.setblocking(True)
            self._end.recv(1)
