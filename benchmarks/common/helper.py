"""Functions in processes of their own, whose allocator keeps its memory."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
from collections.abc import Callable, Iterator
from typing import Any
from unittest.mock import patch

from benchmarks.common.processes import KEPT_MEMORY

Steps = Iterator[Any]
"""What a helper does: it yields once it is ready, and its result after the signal to go on."""


class Helper:
    """The near end of a helper process."""

    def __init__(self, pipe: Any) -> None:
        self._pipe = pipe

    def go(self) -> None:
        """Let it take its second step."""
        self._pipe.send(None)

    def result(self) -> Any:
        """Wait for the value of its next step."""
        try:
            return self._pipe.recv()
        except EOFError:
            raise SystemExit("a helper failed") from None


@contextlib.contextmanager
def helper(function: Callable[..., Steps], *arguments: Any) -> Iterator[Helper]:
    """A helper that is ready; its process ends with the context."""
    context = multiprocessing.get_context("spawn")
    pipe, theirs = context.Pipe()
    process = context.Process(target=_work, args=(theirs, function, arguments))
    with patch.dict(os.environ, KEPT_MEMORY):
        process.start()
    theirs.close()
    made = Helper(pipe)
    try:
        made.result()
        yield made
    finally:
        pipe.close()
        process.kill()
        process.join()


def _work(pipe: Any, function: Callable[..., Steps], arguments: tuple[Any, ...]) -> None:
    steps = function(*arguments)
    with contextlib.suppress(KeyboardInterrupt, EOFError, BrokenPipeError):
        pipe.send(next(steps))
        pipe.recv()
        pipe.send(next(steps))
