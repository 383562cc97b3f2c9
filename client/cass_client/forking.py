"""Notices a process in which gRPC would hang: forked from one that used it, its threads lost.

gRPC starts its threads again in a forked child if its fork support is on
(``GRPC_ENABLE_FORK_SUPPORT``, the default of grpcio's wheels) and no other thread was in the middle
of a call. Else the first call in the child waits for ever, whatever its deadline says. What
decides is looked at, not the variable: were there threads of gRPC before the fork, and are there
any after it?
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from pathlib import Path

from cass_client.errors import Unavailable

_TASKS = Path("/proc/self/task")
# How gRPC calls its threads, from 1.60 on.
_NAMES = ("event_engine", "lifeguard", "timer_manager", "default-execut", "resolver-execut")
_NAMING_MILLISECONDS = 30
REMEDIES = (
    "this process was forked from one that uses gRPC, and gRPC's threads were lost: leave "
    "GRPC_ENABLE_FORK_SUPPORT at 1, start processes by spawn or forkserver "
    '(multiprocessing_context="spawn"), or give the client fallback="local"'
)

processes = 0
"""How many forks this process is away from the one that imported this: it tells whether something
was made in this very process, at less cost than asking for its number."""
_broken = False
_used_before = False
_nameless: frozenset[int] = frozenset()
_kept: list[object] = []


def check(target: str) -> None:
    """Refuse to call from a process in which the call would hang.

    Raises:
        Unavailable: it would; the message names the remedies.
    """
    if _broken:
        raise Unavailable(f"{target}: {REMEDIES}")


def is_broken() -> bool:
    """Whether `check` raises."""
    return _broken


def keep(thing: object) -> None:
    """Keep what a parent's channel hangs on, so that a child never ends the channel."""
    _kept.append(thing)


def _threads() -> dict[int, str]:
    """The names of this process's threads by their numbers, those of other languages too."""
    names = {}
    for task in _TASKS.iterdir():
        with contextlib.suppress(OSError):  # it has just ended
            names[int(task.name)] = (task / "comm").read_text().strip()
    return names


def _before() -> None:
    """See whether gRPC has threads; it names a thread a moment after it has started it."""
    global _used_before, _nameless
    names = _threads()
    for _ in range(_NAMING_MILLISECONDS):
        known = _nameless.union(thread.native_id for thread in threading.enumerate())
        own_name = names.get(os.getpid())
        new = {number for number, name in names.items() if name == own_name} - known
        if not new:
            break
        time.sleep(0.001)
        names = _threads()
    else:
        _nameless = _nameless | new  # not gRPC's
    _used_before = any(name.startswith(_NAMES) for name in names.values())


def _in_child() -> None:
    global processes
    processes += 1


def _look_in_child() -> None:
    global _broken
    # Threads that have just been started again may not have their names yet.
    _broken = _broken or (_used_before and len(list(_TASKS.iterdir())) == 1)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
    # Elsewhere processes are not forked by default, and threads cannot be listed.
    if _TASKS.is_dir():
        os.register_at_fork(before=_before, after_in_child=_look_in_child)
