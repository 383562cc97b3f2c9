"""One replica, as Ray Serve runs it: a server process, its entry in the directory, its load."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from typing import Any

import ray
from ray import serve

from cass_core.errors import CassError
from cass_server.config.settings import Settings
from cass_server.ray.autoscaling import IN_FLIGHT
from cass_server.ray.directory import open_directory
from cass_server.ray.registry import HEARTBEAT_SECONDS
from cass_server.ray.server_process import END_SECONDS, NativeServer, settings_at

_ANSWER_SECONDS = 3.0
# For clients to see that this replica is unlisted, before it rejects their calls.
_UNLISTED_SECONDS = 1.0

_log = logging.getLogger(__name__)


def stop_seconds(settings: Settings) -> float:
    """The longest that a replica takes to stop."""
    unlisted = HEARTBEAT_SECONDS + 2 * _ANSWER_SECONDS + _UNLISTED_SECONDS
    return unlisted + settings.drain_seconds + END_SECONDS


class Replica:
    """Serves from its construction until Serve stops it.

    Its server ends with it, and it with its server: Serve then starts another, with new processes.
    A server that was only started again might be on a GPU whose context is broken, or on a node
    where it cannot run any more.

    Args:
        service: name of the service.
        settings: of the server, as JSON.

    Raises:
        CassError: the server cannot be started.
    """

    def __init__(self, service: str, settings: str) -> None:
        self._service = service
        self._id = serve.get_replica_context().replica_id.unique_id
        self._stopping = threading.Event()
        self._ended = threading.Lock()
        self._directory: Any = None
        given = Settings.model_validate_json(settings)
        with contextlib.ExitStack() as stack:
            self._server = NativeServer(settings_at(given, ray.util.get_node_ip_address()))
            stack.callback(self._server.stop)
            # Clients must see this replica before Serve stops the one that it replaces.
            self._report()
            self._all = stack.pop_all()
        self._thread = threading.Thread(target=self._watch, name="watch", daemon=True)
        self._thread.start()

    def check_health(self) -> None:
        """Called by Serve periodically.

        Raises:
            CassError: this replica has to be replaced.
        """
        self._server.check()

    def record_autoscaling_stats(self) -> dict[str, float]:
        """Called by Serve periodically; see `cass_server.ray.autoscaling`."""
        return {IN_FLIGHT: self._server.load.mean()}

    def __del__(self) -> None:
        """Called by Serve when this replica is to end, and by Python thereafter."""
        # One that was never started has no thread.
        if not hasattr(self, "_thread") or not self._ended.acquire(blocking=False):
            return
        self._stopping.set()
        self._thread.join(HEARTBEAT_SECONDS + _ANSWER_SECONDS)
        self._unregister()
        threading.Event().wait(_UNLISTED_SECONDS)
        self._all.close()

    def _watch(self) -> None:
        while not self._stopping.wait(HEARTBEAT_SECONDS):
            if self._server.exit_code is not None:
                _log.error("the server ended with code %s", self._server.exit_code)
                self._unregister()
                self._all.close()
                os._exit(1)
            try:
                self._report()
            except CassError as error:
                _log.warning("%s", error)

    def _report(self) -> None:
        try:
            if self._directory is None:
                self._directory = open_directory(self._service)
            reported = self._directory.heartbeat.remote(
                self._id, self._server.address, self._server.metrics_address
            )
            ray.get(reported, timeout=_ANSWER_SECONDS)
        except Exception as error:
            # Ray raises many kinds, after which a new handle may work.
            self._directory = None
            raise CassError(f"the directory does not answer: {error}") from None

    def _unregister(self) -> None:
        # If this fails, the missing heartbeats have the same effect.
        with contextlib.suppress(Exception):
            ray.get(self._directory.remove.remote(self._id), timeout=_ANSWER_SECONDS)
