"""A worker process of the server, as a replica runs it."""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import sys
import threading
from collections import deque
from typing import IO

from pydantic import ValidationError

from cass_core import __version__
from cass_core.errors import CassError, InvalidRequest
from cass_server.config.address import address_of, reserve_port
from cass_server.config.settings import Settings
from cass_server.observability.metrics import Metrics, shared_memory
from cass_server.observability.prometheus import WorkerMetrics, serve_metrics
from cass_server.process.health_check import SERVING, check_local
from cass_server.process.worker_channel import COMMAND, READY, start_worker, worker_environment
from cass_server.ray.load import Load
from cass_server.security.tls import metrics_context

END_SECONDS = 5.0
"""How long a worker may take to end after its drain, before it is killed."""

_CHECK_SECONDS = 4.0
_REASON = "cass-server: "


def settings_at(settings: Settings, host: str) -> Settings:
    """The settings of a server that listens on this address.

    Raises:
        CassError: they do not allow that address.
    """
    try:
        return Settings(**{**settings.model_dump(), "host": host})
    except ValidationError as error:
        cause = error.errors()[0].get("ctx", {}).get("error")
        reason = cause.reason if isinstance(cause, InvalidRequest) else str(error)
        raise CassError(reason) from None


class NativeServer:
    """Serves on a free port, from the time it is made until `stop`; ends with this process too.

    What it logs goes to the standard error of this process, which also serves its metrics if a
    port is set for them. The port of its settings is ignored.

    Raises:
        CassError: it cannot be started, with its own reason.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        with contextlib.ExitStack() as stack:
            held, self._port = reserve_port(settings.host, 0)
            stack.enter_context(held)
            self.address = address_of(settings.host, self._port)
            shared = shared_memory()
            stack.callback(os.close, shared)
            metrics = Metrics(shared)
            self._start(stack, shared)
            self.load = Load(metrics)
            self.metrics_address = ""
            if settings.metrics_port is not None:
                found = WorkerMetrics([metrics], __version__, settings.device)
                tls = metrics_context(settings)
                exposed = serve_metrics(settings.host, settings.metrics_port, found, tls)
                self.metrics_address = address_of(settings.host, stack.enter_context(exposed))
            self._all = stack.pop_all()

    def _start(self, stack: contextlib.ExitStack, shared: int) -> None:
        environment = worker_environment(self._settings, self._port)
        environment.setdefault("GRPC_VERBOSITY", "NONE")
        self._process, channel = start_worker(
            COMMAND, 0, environment, shared, stderr=subprocess.PIPE
        )
        stack.enter_context(channel)
        stack.callback(self._kill)
        assert self._process.stderr is not None
        log = _Log(self._process.stderr)
        # Without a limit: compiling the first kernels of a GPU takes minutes.
        select.select([channel], (), ())
        if channel.recv(1) != READY:
            self._process.wait()
            log.join()
            raise CassError(log.reason or f"ended with code {self._process.returncode}")

    @property
    def exit_code(self) -> int | None:
        """The code that the process has ended with; None as long as it runs."""
        return self._process.poll()

    def check(self) -> None:
        """Checks that it serves.

        Raises:
            CassError: it does not serve.
        """
        if self.exit_code is not None:
            raise CassError(f"the server ended with code {self.exit_code}")
        status = check_local(self._settings, self._port, _CHECK_SECONDS)
        if status != SERVING:
            raise CassError(f"{self.address}: {status}")

    def stop(self) -> None:
        """Finishes requests in flight within the drain time, and ends."""
        self._process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(self._settings.drain_seconds + END_SECONDS)
        self._all.close()

    def _kill(self) -> None:
        self._process.kill()
        self._process.wait()


class _Log:
    """Forwards what a process writes, and keeps its last lines."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._last: deque[str] = deque(maxlen=20)
        self._thread = threading.Thread(target=self._read, name="log", daemon=True)
        self._thread.start()

    @property
    def reason(self) -> str:
        """Why the process ended, by its own account; empty if it has not said."""
        lines = [line for line in self._last if line.startswith(_REASON)] or list(self._last)[-1:]
        return "; ".join(line.removeprefix(_REASON).strip() for line in lines)

    def join(self) -> None:
        """Waits until the process has closed the stream."""
        self._thread.join()

    def _read(self) -> None:
        with self._stream:
            for data in self._stream:
                line = data.decode(errors="replace")
                self._last.append(line)
                sys.stderr.write(line)
                sys.stderr.flush()
