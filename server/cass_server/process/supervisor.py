"""Several worker processes behind one port: started, replaced when they die, stopped together."""

from __future__ import annotations

import contextlib
import logging
import math
import random
import selectors
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from cass_core.errors import CassError
from cass_server.process.worker_channel import READY, start_worker

_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_SIGNAL_NAMES = {number.value: number.name for number in signal.Signals}

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class Backoff:
    """How long one worker waits before it is started again.

    Attributes:
        first_seconds: the wait after the first death; it doubles with each that follows.
        limit_seconds: the longest wait.
        reset_seconds: a worker that served for this long begins anew.
        uniform: random numbers in [0, 1). A wait is shortened by up to half, so that workers that
            died of one cause do not come back in one moment.
    """

    first_seconds: float = 0.1
    limit_seconds: float = 30.0
    reset_seconds: float = 60.0
    uniform: Callable[[], float] = random.random
    _next: float = field(default=0.0, init=False)

    def after(self, served_seconds: float) -> float:
        """Seconds to wait, now that the worker died after it had served for so long."""
        if served_seconds >= self.reset_seconds:
            self._next = 0.0
        wait = self._next or self.first_seconds
        self._next = min(2 * wait, self.limit_seconds)
        return wait * (1 - self.uniform() / 2)


@dataclass(slots=True)
class _Slot:
    """One of the workers; its processes follow one another."""

    backoff: Backoff
    served: bool = False
    start_at: float = 0.0


@dataclass(slots=True)
class _Process:
    popen: subprocess.Popen[bytes]
    channel: socket.socket
    ready_at: float | None = None


class Supervisor:
    """Keeps worker processes running until SIGTERM or SIGINT; a second one kills them.

    A worker reports through `worker_channel.WorkerChannel`, and exits when the supervisor is gone.
    Whatever stopped the supervisor, a worker gets SIGTERM, and SIGKILL if it does not end in time.

    Args:
        command: what starts a worker.
        workers: number of workers.
        environment: all variables of a worker but those of its channel.
        drain_seconds: time for requests in flight after SIGTERM.
        on_ready: called once, when all workers serve.
        on_exit: called with a worker's index after each end of its process, before another is
            started in its slot.
        margin_seconds: time for a worker to end after its drain, before it is killed.
        new_backoff: makes the back-off of one worker.
    """

    def __init__(
        self,
        command: Sequence[str],
        workers: int,
        environment: Mapping[str, str],
        *,
        drain_seconds: float,
        on_ready: Callable[[], None],
        on_exit: Callable[[int], None],
        margin_seconds: float = 5.0,
        new_backoff: Callable[[], Backoff] = Backoff,
    ) -> None:
        self._command = command
        self._environment = environment
        self._stop_seconds = drain_seconds + margin_seconds
        self._on_ready = on_ready
        self._on_exit = on_exit
        self._slots = [_Slot(new_backoff()) for _ in range(workers)]
        self._running: dict[int, _Process] = {}
        self._selector = selectors.DefaultSelector()
        self._restarts = 0
        self._announced = False
        self._stopping = False
        self._kill_at = math.inf
        self._exit_code = 0

    def counts(self) -> tuple[int, int]:
        """Worker processes that run, and replacements of those that had served; for any thread."""
        return len(self._running), self._restarts

    def run(self) -> int:
        """Runs the workers to their end. Call once, in the main thread, which gets the signals.

        Returns:
            The exit code: 0 if all workers ended with 0 after a signal, else 1. If one ended
            before it ever served, all are stopped, and the code is that worker's, or 1 where that
            is 0 or a signal.

        Raises:
            CassError: the command cannot be run.
        """
        with self._selector, _signals() as numbers:
            reader = partial(self._read_signals, numbers)
            self._selector.register(numbers, selectors.EVENT_READ, reader)
            try:
                self._start_due()
                while self._running or not self._stopping:
                    for key, _ in self._selector.select(self._wait_seconds()):
                        key.data()
                    for index, process in list(self._running.items()):
                        self._reap(index, process)
                    self._announce()
                    self._start_due()
                    if time.monotonic() >= self._kill_at:
                        self._kill()
            finally:
                # Empty, unless an exception ended the loop.
                for process in self._running.values():
                    process.popen.kill()
                    process.popen.wait()
                    self._close_channel(process)
        return self._exit_code

    def _wait_seconds(self) -> float | None:
        """Seconds until the next start or kill; None to wait for signals and messages alone."""
        due = [self._kill_at]
        if not self._stopping:
            due += [p.start_at for i, p in enumerate(self._slots) if i not in self._running]
        first = min(due)
        return None if first == math.inf else max(0.0, first - time.monotonic())

    def _start_due(self) -> None:
        for index, slot in enumerate(self._slots):
            missing = index not in self._running and not self._stopping
            if missing and time.monotonic() >= slot.start_at:
                self._start(index, slot)

    def _start(self, index: int, slot: _Slot) -> None:
        try:
            popen, channel = start_worker(self._command, index, self._environment)
        except OSError as error:
            if not slot.served:
                raise CassError(f"cannot start a worker: {error}") from error
            self._start_later(index, 0.0, {"reason": str(error)})
            return
        process = self._running[index] = _Process(popen, channel)
        self._restarts += slot.served
        reader = partial(self._read_message, index, process)
        self._selector.register(channel, selectors.EVENT_READ, reader)

    def _start_later(self, index: int, served_seconds: float, cause: dict[str, Any]) -> None:
        slot = self._slots[index]
        wait = slot.backoff.after(served_seconds)
        slot.start_at = time.monotonic() + wait
        extra = {"worker": index, **cause, "restart_in_seconds": round(wait, 3)}
        _log.warning("worker died", extra=extra)

    def _read_message(self, index: int, process: _Process) -> None:
        try:
            data = process.channel.recv(len(READY))
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data == READY and process.ready_at is None:
            process.ready_at = time.monotonic()
            self._slots[index].served = True
            _log.info("worker ready", extra={"worker": index, "pid": process.popen.pid})
        elif not data:
            # The process may live on without its channel: only SIGCHLD means that it ended.
            self._close_channel(process)

    def _close_channel(self, process: _Process) -> None:
        if process.channel.fileno() >= 0:
            self._selector.unregister(process.channel)
            process.channel.close()

    def _announce(self) -> None:
        """Calls `on_ready` the first time that all workers serve."""
        ready = sum(process.ready_at is not None for process in self._running.values())
        if ready == len(self._slots) and not self._announced and not self._stopping:
            self._announced = True
            self._on_ready()

    def _reap(self, index: int, process: _Process) -> None:
        """Handles the end of a process, if it has ended."""
        code = process.popen.poll()
        if code is None:
            return
        if process.channel.fileno() >= 0:
            # A report of a worker that was ready only for a moment may be unread.
            self._read_message(index, process)
            self._close_channel(process)
        del self._running[index]
        self._on_exit(index)
        cause: dict[str, Any] = {"pid": process.popen.pid}
        if code < 0:
            cause["signal"] = _SIGNAL_NAMES.get(-code, -code)
        else:
            cause["exit_code"] = code
        if self._stopping:
            # One that was not ready, and so did not handle the signal yet, had nothing to answer.
            if code != 0 and not (code == -signal.SIGTERM and process.ready_at is None):
                _log.warning("worker did not stop cleanly", extra={"worker": index, **cause})
                self._exit_code = self._exit_code or 1
        elif not self._slots[index].served:
            _log.error("worker failed to start", extra={"worker": index, **cause})
            self._exit_code = max(code, 1)
            self._stop()
        else:
            ready_at = process.ready_at
            served_seconds = 0.0 if ready_at is None else time.monotonic() - ready_at
            self._start_later(index, served_seconds, cause)

    def _read_signals(self, numbers: socket.socket) -> None:
        for number in numbers.recv(4096):
            # SIGCHLD has done its work by waking the loop, which looks at all workers.
            if number not in _STOP_SIGNALS:
                continue
            if self._stopping:
                self._kill()
            else:
                _log.info("stopping workers", extra={"signal": _SIGNAL_NAMES[number]})
                self._stop()

    def _stop(self) -> None:
        self._stopping = True
        self._kill_at = time.monotonic() + self._stop_seconds
        for process in self._running.values():
            process.popen.terminate()

    def _kill(self) -> None:
        self._kill_at = math.inf
        for index, process in self._running.items():
            _log.warning("killing worker", extra={"worker": index, "pid": process.popen.pid})
            process.popen.kill()


@contextlib.contextmanager
def _signals() -> Iterator[socket.socket]:
    """A socket that gets the number of each SIGTERM, SIGINT and SIGCHLD as a byte."""
    receiver, sender = socket.socketpair()
    with receiver, sender:
        receiver.setblocking(False)
        sender.setblocking(False)
        before_fd = signal.set_wakeup_fd(sender.fileno(), warn_on_full_buffer=False)
        # Nothing is written for a signal that has no handler in Python.
        before = {
            number: signal.signal(number, lambda *_: None)
            for number in (*_STOP_SIGNALS, signal.SIGCHLD)
        }
        try:
            yield receiver
        finally:
            for number, handler in before.items():
                signal.signal(number, signal.SIG_DFL if handler is None else handler)
            signal.set_wakeup_fd(before_fd)
