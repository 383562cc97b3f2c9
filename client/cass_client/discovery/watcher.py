"""Watches the list of a service's replicas on Ray, in one thread for each service and process.

The list is kept in a file as well, for the processes that this one starts: a worker of a data
loader cannot use its parent's connection to Ray. The folder of these files is named in the
environment, which forked and spawned processes inherit.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import os
import random
import sys
import threading
import time
from pathlib import Path
from typing import Any

from cass.discovery import NAMESPACE, Listing, directory_name
from cass_client.discovery.endpoint_file import FOLDER_VARIABLE, Addresses, make_folder, write_list

# A directory answers after this time with the list that it has.
_WATCH_SECONDS = 10.0
_GRACE_SECONDS = 5.0
# Once the program has shut Ray down a request is never answered: that is looked for.
_LOOK_SECONDS = 0.5
_FIRST_PAUSE_SECONDS = 0.1
_LONGEST_PAUSE_SECONDS = 2.0
_JITTER = 0.25

_lock = threading.Lock()
_watchers: dict[str, Watcher] = {}
_folder: Path | None = None
# Ray has been connected to by the parent, before the fork.
_inherited = False


def is_connected() -> bool:
    """Whether this process itself is connected to Ray, not only its parent."""
    global _inherited
    # Not by `import`, which waits for a thread that is loading Ray, in a fork for ever.
    is_initialized = getattr(sys.modules.get("ray"), "is_initialized", None)
    if is_initialized is None or not is_initialized():
        _inherited = False
        return False
    return not _inherited


def watch(service: str) -> Watcher | None:
    """The watcher of a service in this process, started if need be; None without Ray."""
    watcher = _watchers.get(service)
    if watcher is None and is_connected():
        with _lock:
            watcher = _watchers.get(service)
            if watcher is None:
                watcher = _watchers[service] = Watcher(service, _own_folder() / service)
    return watcher


class Watcher:
    """A thread that watches a service's directory as long as this process lives.

    While the directory is away, or empty as it may be after a restart, the last list stays in
    force. `addresses` is empty if there is no directory or none was listed yet, None before the
    first answer.
    """

    def __init__(self, service: str, file: Path) -> None:
        self.addresses: Addresses | None = None
        self._service = service
        self._file = file
        self._version = 0
        write_list(file, None)
        threading.Thread(target=self._run, name="cass-client-ray", daemon=True).start()

    def _run(self) -> None:
        pause = _FIRST_PAUSE_SECONDS
        while True:
            try:
                directory = self._directory()
                while True:
                    self._hear(self._watch(directory))
                    pause = _FIRST_PAUSE_SECONDS
            except TimeoutError:
                self._keep(self.addresses)  # it may be about to start
            except Exception:
                # Ray has many exceptions for a directory or a cluster that is gone: find it again.
                self._keep(self.addresses or ())
            time.sleep(pause * (1 + _JITTER * random.random()))
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)

    def _directory(self) -> Any:
        import ray

        with _ray_lasting():
            self._connection()  # which Ray would make otherwise
            directory = ray.get_actor(directory_name(self._service), namespace=NAMESPACE)
        if not self.addresses:
            self._keep(None)  # who there is will be known once it has started
        return directory

    def _watch(self, directory: Any) -> Listing:
        with _ray_lasting():
            connection = self._connection()
            # Not by `ray.get`, which may crash when Ray is shut down in the meantime.
            answer = directory.watch.remote(self._version, _WATCH_SECONDS).future()
        end = time.monotonic() + _WATCH_SECONDS + _GRACE_SECONDS
        while time.monotonic() < end:
            if concurrent.futures.wait([answer], _LOOK_SECONDS).done:
                return Listing(*answer.result())
            if self._connection() != connection:
                raise ConnectionError
        raise TimeoutError

    def _connection(self) -> str:
        """An id of this process's connection to Ray, which a later one does not have."""
        import ray

        with _ray_lasting():
            if not is_connected():
                raise ConnectionError
            return ray.get_runtime_context().get_worker_id()

    def _hear(self, listing: Listing) -> None:
        self._version = listing.version
        self._keep(tuple(listing.addresses) or self.addresses or ())

    def _keep(self, addresses: Addresses | None) -> None:
        self.addresses = addresses
        # The same one as well: the last may not have been written, or was cleared away.
        write_list(self._file, addresses)


def _ray_lasting() -> contextlib.AbstractContextManager[object]:
    """A context in which Ray is not shut down, as it ends a process that calls it after that."""
    import ray

    lock: contextlib.AbstractContextManager[object] = getattr(
        ray._private.worker, "_connect_or_shutdown_lock", contextlib.nullcontext()
    )
    return lock


def _own_folder() -> Path:
    """The folder of this process's files."""
    global _folder
    if _folder is None:
        _folder = make_folder()
        os.environ[FOLDER_VARIABLE] = str(_folder)
    return _folder


def _in_child() -> None:
    """The threads are the parent's, and so is the connection."""
    global _lock, _watchers, _folder, _inherited
    _lock, _watchers, _folder = threading.Lock(), {}, None
    _inherited = is_connected() or _inherited


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
