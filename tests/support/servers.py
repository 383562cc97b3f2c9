"""Real servers for tests: started on a free loopback port, always stopped."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

START_SECONDS = 90.0
STOP_SECONDS = 60.0


class ServerProcess:
    """A `cass-server serve` process and what it has logged.

    While ``reads`` is not set, nobody reads what it logs.
    """

    def __init__(
        self,
        *arguments: str,
        program: Sequence[str] = ("-m", "cass_server", "serve"),
        interpreter: str = sys.executable,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> None:
        """Start it; ``arguments`` follow ``serve --host 127.0.0.1 --port 0 --device cpu``.

        ``program`` may be a script that serves in its own way and logs alike.
        """
        command = [interpreter, *program]
        command += ["--host", "127.0.0.1", "--port", "0", "--device", "cpu", *arguments]
        self.process = subprocess.Popen(
            command, stderr=subprocess.PIPE, text=True, env={**os.environ, **(env or {})}, cwd=cwd
        )
        self.lines: list[str] = []
        self._arrived: queue.Queue[str | None] = queue.Queue()
        self.reads = threading.Event()
        self.reads.set()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.address = ""

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line)
            self._arrived.put(line)
            self.reads.wait()
        self._arrived.put(None)

    def wait_for(self, event: str, seconds: float = START_SECONDS) -> dict[str, Any]:
        """The next log line with this event; fails if the process ends or time runs out."""
        end = time.monotonic() + seconds
        while True:
            try:
                line = self._arrived.get(timeout=max(0.0, end - time.monotonic()))
            except queue.Empty:
                raise AssertionError(f"no {event!r} in:\n{''.join(self.lines)}") from None
            if line is None:
                raise AssertionError(f"the server ended:\n{''.join(self.lines)}")
            with contextlib.suppress(json.JSONDecodeError):
                record: dict[str, Any] = json.loads(line)
                if record.get("event") == event:
                    return record

    def wait_until_serving(self) -> None:
        """Wait for the line that tells the address, and keep it."""
        self.address = self.wait_for("serving")["address"]

    def records(self, event: str = "") -> list[dict[str, Any]]:
        """What it has logged, or what of this event; every line must be a JSON object."""
        found: list[dict[str, Any]] = [json.loads(line) for line in self.lines]
        return [record for record in found if event in ("", record["event"])]

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Signal it and wait; its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        code = self.process.wait(timeout=STOP_SECONDS)
        self._reader.join(timeout=STOP_SECONDS)
        return code

    def pause(self) -> None:
        """SIGSTOP, and wait until none of its threads runs any more."""
        self.process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self.process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)

    def kill(self) -> None:
        """End it whatever it does."""
        self.reads.set()
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(timeout=STOP_SECONDS)
        self._reader.join(timeout=STOP_SECONDS)
        assert self.process.stderr is not None
        self.process.stderr.close()


@contextlib.contextmanager
def server_process(*arguments: str, **options: Any) -> Iterator[ServerProcess]:
    """A process that has been started and may not be serving yet; killed at the end."""
    server = ServerProcess(*arguments, **options)
    try:
        yield server
    finally:
        server.kill()


@contextlib.contextmanager
def serving(*arguments: str, **options: Any) -> Iterator[ServerProcess]:
    """A server that is serving; killed at the end."""
    with server_process(*arguments, **options) as server:
        server.wait_until_serving()
        yield server
