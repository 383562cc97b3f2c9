"""Threads for large batches: as many as torch, OpenMP's setting or the machine allows."""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from cass_core.cpu.cores import core_count, core_limit

_pool: ThreadPoolExecutor | None = None


def thread_count() -> int:
    """How many threads a call may use.

    ``torch.get_num_threads()`` where torch is loaded: the workers of its data loaders have one
    each. It knows no limits of containers, which count here too. Else ``OMP_NUM_THREADS``, else
    the cores that this process may use.
    """
    get_num_threads = getattr(sys.modules.get("torch"), "get_num_threads", None)
    if get_num_threads is not None:
        return min(int(get_num_threads()), core_limit())
    setting = os.environ.get("OMP_NUM_THREADS", "")
    if setting.isdigit() and int(setting) > 0:
        return int(setting)
    return core_count()


def split(count: int, work: Callable[[int, int], None], least: int) -> None:
    """Call ``work(first, last)`` for parts of ``range(count)``, side by side.

    The work must release the GIL, and its result must not depend on the parts.

    Args:
        least: entries that are worth a thread of their own.
    """
    parts = count // max(1, least)
    if parts > 1:  # else the number of threads does not matter
        parts = min(thread_count(), parts)
    if parts <= 1:
        work(0, count)
        return
    edges = [count * part // parts for part in range(parts + 1)]
    waiting = [
        _executor().submit(work, first, last) for first, last in itertools.pairwise(edges[1:])
    ]
    work(0, edges[1])
    for future in waiting:
        future.result()


def _executor() -> ThreadPoolExecutor:
    global _pool
    if _pool is None:
        # Threads are started as they are needed; several calls may be under way at a time.
        _pool = ThreadPoolExecutor(max(64, os.cpu_count() or 1), thread_name_prefix="cass")
    return _pool


def _forget() -> None:
    global _pool
    _pool = None


if hasattr(os, "register_at_fork"):  # a forked child has the pool, but not its threads
    os.register_at_fork(after_in_child=_forget)
