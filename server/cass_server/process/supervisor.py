"""Several worker processes behind one port: started, replaced when they die, stopped together."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from cass_core.errors import CassError
from cass_server.process.worker_channel import READY, start_worker
from cass_server.resource_limits import exhausted
from cass_server.signals import stop_signals

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class Backoff:
    """How long one worker waits before it is started again.

    The wait doubles from the first to the limit, and begins anew once the worker has served for
    ``reset_seconds``. It is shortened at random by up to half, so that workers that died of one
    cause do not come back in one moment.
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


class Supervisor:
    """Keeps worker processes running until a signal to stop; a second one kills them.

    A worker reports through `worker_channel.WorkerChannel`, and exits when the supervisor is gone.
    Whatever stopped the supervisor, a worker gets SIGTERM, and SIGKILL if it does not end in time.

    Args:
        command: what starts a worker.
        workers: number of workers.
        environment: all variables of a worker but those of its channel.
        metrics: descriptors of the `shared_memory` of each worker, if they count there.
        drain_seconds: time for requests in flight after SIGTERM.
        on_ready: called once, when all workers serve.
        on_exit: called with a worker's index after its process ended, before it is replaced.
        margin_seconds: time for a worker to end after its drain, before it is killed.
        new_backoff: makes the back-off of one worker.
    """

    def __init__(
        self,
        command: Sequence[str],
        workers: int,
        environment: Mapping[str, str],
        *,
        metrics: Sequence[int | None] = (),
        drain_seconds: float,
        on_ready: Callable[[], None],
        on_exit: Callable[[int], None],
        margin_seconds: float = 5.0,
        new_backoff: Callable[[], Backoff] = Backoff,
    ) -> None:
        self._command = command
        self._workers = workers
        self._environment = environment
        self._metrics = metrics or [None] * workers
        self._stop_seconds = drain_seconds + margin_seconds
        self._on_ready: Callable[[], None] | None = on_ready
        self._on_exit = on_exit
        self._new_backoff = new_backoff
        self._running: dict[int, subprocess.Popen[bytes]] = {}
        self._serving: dict[int, float] = {}  # since when, on the monotonic clock
        self._restarts = 0
        self._stopping = asyncio.Event()
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
        return asyncio.run(self._run())

    async def _run(self) -> int:
        self._loop = asyncio.get_running_loop()
        for number in stop_signals():
            self._loop.add_signal_handler(number, self._on_signal, number)
        with ThreadPoolExecutor(self._workers, "worker") as threads:
            try:
                await asyncio.gather(*(self._keep(i, threads) for i in range(self._workers)))
            finally:
                # Empty, unless there was an exception.
                for process in self._running.values():
                    process.kill()
        return self._exit_code

    async def _keep(self, index: int, threads: ThreadPoolExecutor) -> None:
        """Runs one of the workers, whose processes follow one another."""
        backoff, has_served = self._new_backoff(), False
        cause: dict[str, Any]
        while not self._stopping.is_set():
            try:
                process, channel = start_worker(
                    self._command, index, self._environment, self._metrics[index]
                )
            except OSError as error:
                if not has_served:
                    reason = exhausted(error) or error.strerror
                    raise CassError(f"cannot start a worker: {reason}") from error
                served_seconds, cause = 0.0, {"reason": str(error)}
            else:
                self._running[index] = process
                self._restarts += has_served
                with channel:
                    self._loop.add_reader(channel, self._read, index, channel)
                    code = await self._loop.run_in_executor(threads, process.wait)
                    # The report of a worker that was ready only for a moment may be unread.
                    self._read(index, channel)
                del self._running[index]
                self._on_exit(index)
                since = self._serving.pop(index, None)
                served_seconds = 0.0 if since is None else time.monotonic() - since
                has_served = has_served or since is not None
                ending = {"signal": _signal_name(-code)} if code < 0 else {"exit_code": code}
                cause = {"pid": process.pid, **ending}
                if self._stopping.is_set():
                    # One that did not serve, and so did not handle the signal yet, had nothing to
                    # answer.
                    if code and not (code == -signal.SIGTERM and since is None):
                        extra = {"worker": index, **cause}
                        _log.warning("worker did not stop cleanly", extra=extra)
                        self._exit_code = self._exit_code or 1
                    return
                if not has_served:
                    _log.error("worker failed to start", extra={"worker": index, **cause})
                    self._exit_code = max(code, 1)
                    self._stop()
                    return
            wait = backoff.after(served_seconds)
            extra = {"worker": index, **cause, "restart_in_seconds": round(wait, 3)}
            _log.warning("worker died", extra=extra)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), wait)

    def _read(self, index: int, channel: socket.socket) -> None:
        """Handles a worker's report that it serves, or the end of its channel."""
        self._loop.remove_reader(channel)
        with contextlib.suppress(OSError):
            if channel.recv(len(READY)) == READY:
                self._serving[index] = time.monotonic()
                extra = {"worker": index, "pid": self._running[index].pid}
                _log.info("worker ready", extra=extra)
        if len(self._serving) == self._workers and self._on_ready and not self._stopping.is_set():
            self._on_ready()
            self._on_ready = None

    def _on_signal(self, number: signal.Signals) -> None:
        if self._stopping.is_set():
            # A terminal that closes may send two: its shell's and the kernel's.
            if number != signal.SIGHUP:
                self._kill()
        else:
            _log.info("stopping workers", extra={"signal": number.name})
            self._stop()

    def _stop(self) -> None:
        self._stopping.set()
        for process in self._running.values():
            process.terminate()
        self._loop.call_later(self._stop_seconds, self._kill)

    def _kill(self) -> None:
        for index, process in self._running.items():
            _log.warning("killing worker", extra={"worker": index, "pid": process.pid})
            process.kill()


def _signal_name(number: int) -> str | int:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal
        return number
