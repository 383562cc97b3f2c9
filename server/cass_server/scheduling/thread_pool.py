"""Threads for calls that wait, of which a call that was taken gets one even if none can start."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeAlias

_Task: TypeAlias = tuple[Future[Any], Callable[..., Any], tuple[Any, ...], dict[str, Any]]

_log = logging.getLogger(__name__)


class ThreadPool(ThreadPoolExecutor):
    """Runs calls in as many threads at a time as there are calls, up to a number.

    A `ThreadPoolExecutor` that cannot start a thread raises and keeps the call all the same, which
    runs much later, or never if there is no thread at all. This one has a thread from the
    start, and what it takes waits for the next thread that has time. It is one by its type alone,
    since gRPC's server takes no other pool.

    Args:
        most: number of threads, at most.
        name: of the threads.

    Raises:
        RuntimeError: not even the first thread can be started.

    Example:
        >>> pool = ThreadPool(2, "sum")
        >>> pool.submit(sum, [1, 2]).result()
        3
    """

    def __init__(self, most: int, name: str) -> None:
        super().__init__(most, thread_name_prefix=name)
        self._most, self._name = most, name
        self._changed = threading.Condition()
        self._tasks: deque[_Task] = deque()
        self._running = self._idle = 0
        self._ended = False
        with self._changed:
            self._start()

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Run a function in a thread, at once unless there are as many as there may or can be.

        Raises:
            RuntimeError: the pool is shut down.
        """
        future: Future[Any] = Future()
        with self._changed:
            if self._ended:
                raise RuntimeError(f"the pool {self._name} is shut down")
            self._tasks.append((future, function, args, kwargs))
            if self._idle < len(self._tasks) and self._running < self._most:
                try:
                    self._start()
                except (RuntimeError, MemoryError):
                    _log.exception("no new thread, a call waits", extra={"pool": self._name})
            self._changed.notify()
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls; the threads end with the last of those that were taken."""
        with self._changed:
            self._ended = True
            if cancel_futures:
                for future, *_ in self._tasks:
                    future.cancel()
            self._changed.notify_all()
            while wait and self._running:
                self._changed.wait()

    def _start(self) -> None:
        threading.Thread(target=self._run, name=self._name, daemon=True).start()
        self._running += 1

    def _run(self) -> None:
        while (task := self._next()) is not None:
            future, function, args, kwargs = task
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(function(*args, **kwargs))
                except BaseException as error:  # whoever has the future gets it
                    future.set_exception(error)
            del task, future, function, args, kwargs  # else kept until the next

    def _next(self) -> _Task | None:
        with self._changed:
            self._idle += 1
            while not self._tasks and not self._ended:
                self._changed.wait()
            self._idle -= 1
            if self._tasks:
                return self._tasks.popleft()
            self._running -= 1
            self._changed.notify_all()
            return None
