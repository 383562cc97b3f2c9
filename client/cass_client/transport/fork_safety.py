"""Notices a process in which gRPC would hang: forked from one that used it, its threads lost.

gRPC starts its threads again in a forked child if its fork support is on
(``GRPC_ENABLE_FORK_SUPPORT``, the default of grpcio's wheels) and no other thread was in the middle
of a call. Else the first call in the child waits for ever, whatever its deadline says. What
decides is looked at, not the variable: were there threads of gRPC before the fork, and are there
any after it? The variable counts where they may be Ray's, which has a gRPC of its own.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
import weakref
from pathlib import Path
from typing import Any

_TASKS = Path("/proc/self/task")
# How gRPC calls its threads, from 1.60 on.
_NAMES = ("event_engine", "lifeguard", "timer_manager", "default-execut", "resolver-execut")
_NAMING_MILLISECONDS = 30
# What gRPC reads as false.
_OFF = ("0", "f", "false", "n", "no")
# The name of the function that it runs, in Python.
_LOOPS_THREAD = "_poll_wrapper"
_LONGEST_WAIT_SECONDS = 1.0
REMEDIES = (
    "this process was forked from one that uses gRPC, and gRPC's threads were lost: leave "
    "GRPC_ENABLE_FORK_SUPPORT at 1, close asynchronous clients and end other threads' calls before "
    'the fork, start processes by spawn or forkserver (multiprocessing_context="spawn"), or give '
    'the client fallback="local"'
)

processes = 0
"""How many forks this process is away from the one that imported this. What was made in this very
process has the same number; comparing it costs less than `os.getpid`."""
_broken = False
_broken_for_loops = False
_used_before = False
_quiet_before = True
_loops_before = False
_nameless: frozenset[int] = frozenset()
_kept: list[object] = []
_channels: weakref.WeakSet[Any] = weakref.WeakSet()


def is_broken(for_loops: bool = False) -> bool:
    """Whether a call from this process would hang, or end it.

    gRPC has one thread for all event loops, which it does not start again in a forked child.
    """
    return _broken or (for_loops and _broken_for_loops)


class _Calls:
    """The calls of threads that are under way, which a fork has to wait for.

    gRPC does not make ready for a fork while another thread calls it, and the child dies in its
    first call.
    """

    def __init__(self) -> None:
        # One entry a call. A call takes no lock: it is entered before it looks for a fork, and a
        # fork makes itself known before it looks for calls, so that one of them sees the other.
        self._under_way: list[None] = []
        self._held_back = False
        self._changed = threading.Condition()

    def __enter__(self) -> None:
        self._under_way.append(None)
        if self._held_back:
            with self._changed:
                self._under_way.pop()
                self._changed.notify_all()
                self._changed.wait_for(lambda: not self._held_back)
                self._under_way.append(None)

    def __exit__(self, *exc: object) -> None:
        self._under_way.pop()
        if self._held_back:
            with self._changed:
                self._changed.notify_all()

    def hold_back(self, seconds: float) -> bool:
        """Let no further call begin; whether those under way have ended by then."""
        with self._changed:
            self._held_back = True
            return self._changed.wait_for(lambda: not self._under_way, seconds)

    def let_go(self) -> None:
        """Let calls begin again."""
        with self._changed:
            self._held_back = False
            self._changed.notify_all()


_calls = _Calls()


def calling() -> _Calls:
    """A context in which a thread makes a call."""
    return _calls


def opened(channel: object) -> None:
    """Registers a channel of this process, until it is gone."""
    _channels.add(channel)


def _threads() -> dict[int, str]:
    """The names of this process's threads by their numbers, those of other languages too."""
    names = {}
    for task in _TASKS.iterdir():
        with contextlib.suppress(OSError):  # it has just ended
            names[int(task.name)] = (task / "comm").read_bytes().decode(errors="replace").strip()
    return names


def _before() -> None:
    """Records what gRPC is doing before a fork."""
    global _used_before, _quiet_before, _loops_before
    _quiet_before = _calls.hold_back(_LONGEST_WAIT_SECONDS)
    _loops_before = any(_LOOPS_THREAD in thread.name for thread in threading.enumerate())
    # Ray's threads have these names too, and a child can do without them. Others than clients may
    # use gRPC as well: its threads start again, unless that is switched off.
    may_be_rays = "ray._raylet" in sys.modules and not _channels and _starts_threads_again()
    _used_before = not may_be_rays and _has_threads()


def _starts_threads_again() -> bool:
    """Whether gRPC's fork support is on, as far as the variable says."""
    return os.environ.get("GRPC_ENABLE_FORK_SUPPORT", "1").lower() not in _OFF


def _has_threads() -> bool:
    """Whether gRPC has threads; it names a thread a moment after it has started it."""
    global _nameless
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
    return any(name.startswith(_NAMES) for name in names.values())


def _in_child() -> None:
    global processes, _calls
    processes += 1
    _calls = _Calls()  # whose lock nobody holds
    # Their end in the child would disturb the parent's.
    _kept.extend(_channels)


def _look_in_child() -> None:
    global _broken, _broken_for_loops
    # Threads that have just been started again may not have their names yet.
    lost = _used_before and len(list(_TASKS.iterdir())) == 1
    _broken = _broken or lost or (_used_before and not _quiet_before)
    _broken_for_loops = _broken_for_loops or _loops_before


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
    # Elsewhere processes are not forked by default, and threads cannot be listed.
    if _TASKS.is_dir():
        os.register_at_fork(
            before=_before,
            after_in_parent=lambda: _calls.let_go(),
            after_in_child=_look_in_child,
        )
