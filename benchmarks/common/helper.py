"""Functions in processes of their own, whose allocator keeps its memory."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
from collections.abc import Callable, Iterator
from typing import Any

from benchmarks.common.processes import KEPT_MEMORY

Steps = Iterator[Any]
"""What a helper does: it yields once it is ready, and its result once it was told to go on."""


class Helper:
    """A function's steps in another process.

    Args:
        function: makes the steps.
        arguments: of the function.

    Attributes:
        ready: what the first step gave.
    """

    def __init__(self, function: Callable[..., Steps], *arguments: Any) -> None:
        context = multiprocessing.get_context("spawn")
        self._name = function.__name__
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_work, args=(theirs, function, arguments))
        self._process.start()
        theirs.close()
        self.ready = self._receive()

    def go(self) -> None:
        """Let it take its second step."""
        self._pipe.send(None)

    def result(self) -> Any:
        """Wait for what the second step gives."""
        return self._receive()

    def _receive(self) -> Any:
        try:
            return self._pipe.recv()
        except EOFError:
            raise SystemExit(f"{self._name} failed") from None

    def close(self) -> None:
        """End the process."""
        self._pipe.close()
        self._process.kill()
        self._process.join()


@contextlib.contextmanager
def helper(function: Callable[..., Steps], *arguments: Any) -> Iterator[Helper]:
    """A helper that is ready, ended at the end."""
    before = dict(os.environ)
    os.environ.update(KEPT_MEMORY)
    try:
        made = Helper(function, *arguments)
    finally:
        os.environ.clear()
        os.environ.update(before)
    try:
        yield made
    finally:
        made.close()


def _work(pipe: Any, function: Callable[..., Steps], arguments: tuple[Any, ...]) -> None:
    steps = function(*arguments)
    with contextlib.suppress(KeyboardInterrupt, EOFError, BrokenPipeError):
        pipe.send(next(steps))
        pipe.recv()
        pipe.send(next(steps))
