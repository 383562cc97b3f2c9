"""The signals that stop a server."""

from __future__ import annotations

import contextlib
import os
import signal


def stop_signals() -> list[signal.Signals]:
    """SIGTERM, SIGINT, and SIGHUP, as a closed terminal sends it, unless ``nohup`` ignores it."""
    hang_up = signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN
    return [signal.SIGTERM, signal.SIGINT, *[signal.SIGHUP] * hang_up]


def exit_on_stop_signals() -> None:
    """Until a server has handlers of its own, they end the process with a line and 128 + number.

    By default SIGINT is a traceback, out of whatever is imported just then, and process 1 of a
    container gets no SIGTERM at all.
    """
    for number in stop_signals():
        signal.signal(number, _exit)


def _exit(number: int, _: object) -> None:
    with contextlib.suppress(OSError):
        os.write(2, f"cass-server: stopped by {signal.Signals(number).name}\n".encode())
    os._exit(128 + number)
