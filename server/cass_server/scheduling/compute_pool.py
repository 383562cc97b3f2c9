"""The threads that answer calls, and the slots that they share with those of streams."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from typing import Any, NamedTuple

# How often a thread that waits for its turn looks whether it still should.
_LOOK_SECONDS = 0.2

_log = logging.getLogger(__name__)

DONE: Future[Any] = Future()
"""What gRPC's server gets for a call that it submits; it only wants to know that it is done."""
DONE.set_result(None)


class ComputePool(Executor):
    """Runs calls in threads, as many at a time as there are slots; first come, first served.

    A slot is the right to read, compute and answer. The thread that was idle last runs the next
    call: what it works with is in the caches.
    """

    def __init__(self, slots: int) -> None:
        self._lock = threading.Lock()
        self._free = slots
        # Calls to start, and threads that want a slot.
        self._queue: deque[_Task | _Thread] = deque()
        self._idle: list[_Thread] = []
        self._local = threading.local()
        # So that what is heavy leaves a slot to what is not.
        self._heavy = threading.Semaphore(max(1, slots - 1))

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Runs the function in a thread once there is a slot; the future has no result.

        Raises:
            RuntimeError: there is a slot, and no new thread can be started.
            MemoryError: likewise.
        """
        task = _Task(function, args)
        with self._lock:
            if self._free:
                self._start(task)
                self._free -= 1
            else:
                self._queue.append(task)
        return DONE

    def acquire(self) -> None:
        """Wait for a slot: in a thread of another pool, or after `release`."""
        thread: _Thread | None = getattr(self._local, "thread", None)
        if thread is None:
            thread = self._local.thread = _Thread()
        with self._lock:
            if self._free:
                self._free -= 1
                return
            self._queue.append(thread)
        thread.wake.acquire()

    def release(self) -> None:
        """Give the slot of this thread to the next in the queue."""
        with self._lock:
            self._release()

    @contextmanager
    def lent(self) -> Iterator[None]:
        """Lets others have the slot of this thread while it waits for something."""
        self.release()
        try:
            yield
        finally:
            self.acquire()

    @contextmanager
    def heavy(self, check: Callable[[], None]) -> Iterator[None]:
        """For work that takes long: all slots but one do such work at a time.

        Until it is this thread's turn, others have its slot; what ``check`` raises meanwhile ends
        that.
        """
        if not self._heavy.acquire(blocking=False):
            with self.lent():
                while not self._heavy.acquire(timeout=_LOOK_SECONDS):
                    check()
        try:
            yield
        finally:
            self._heavy.release()

    def _start(self, task: _Task) -> None:
        """Run a task, for which there is a slot, in the thread that was idle last or a new one."""
        if self._idle:
            thread = self._idle.pop()
            thread.task = task
            thread.wake.release()
        else:
            thread = _Thread()
            thread.task = task
            threading.Thread(target=self._run, args=(thread,), name="compute", daemon=True).start()

    def _release(self) -> None:
        if not self._queue:
            self._free += 1
            return
        entry = self._queue.popleft()
        if isinstance(entry, _Thread):
            entry.wake.release()
        else:
            try:
                self._start(entry)
            except (RuntimeError, MemoryError):
                # There is no new thread: it is for the next of those at work.
                self._queue.appendleft(entry)
                self._free += 1
                _log.exception("no thread for a call, which waits")

    def _run(self, thread: _Thread) -> None:
        self._local.thread = thread
        while True:
            try:
                thread.task.function(*thread.task.args)
            except BaseException:  # which would take the slot along
                _log.exception("a call's thread failed")
            thread.task = _NOTHING  # else the call would be kept until the next
            with self._lock:
                first = self._queue[0] if self._queue else None
                if isinstance(first, _Task):
                    # The slot stays here, and this thread need not sleep in between.
                    thread.task = first
                    del first
                    self._queue.popleft()
                    continue
                self._release()
                self._idle.append(thread)
            thread.wake.acquire()


class _Task(NamedTuple):
    function: Callable[..., Any]
    args: tuple[Any, ...]


class _Thread:
    """A thread that may wait for a slot, and what it is to do with it."""

    __slots__ = ("task", "wake")

    def __init__(self) -> None:
        self.task = _NOTHING
        # Held, until another thread wakes this one.
        self.wake = threading.Lock()
        self.wake.acquire()


_NOTHING = _Task(lambda: None, ())
