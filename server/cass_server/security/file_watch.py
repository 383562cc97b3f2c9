"""Looks after the files of TLS and tokens while the server serves."""

from __future__ import annotations

import datetime
import logging
import threading
import time
from collections.abc import Callable
from typing import Any

from cass_server.observability.metrics import Metrics
from cass_server.security.reloading_file import ReloadingFiles
from cass_server.security.tls import TlsFiles
from cass_server.security.tokens import TokenFile

# How often files are looked at.
_LOOK_SECONDS = 1.0
_DAY = 24 * 60 * 60.0
# How long before its end a certificate is warned of, once a day.
_WARNING_SECONDS = 14 * _DAY

_log = logging.getLogger(__name__)


class FileWatch:
    """Reads files again that have changed, and reports those that cannot be used or expire.

    ``report`` is called at each look with whether all files can be used.
    """

    def __init__(
        self,
        tokens: TokenFile | None,
        tls: TlsFiles | None,
        metrics: Metrics,
        report: Callable[[bool], None],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._files: dict[str, ReloadingFiles[Any]] = {}
        if tokens is not None:
            self._files["tokens"] = tokens.file
        if tls is not None:
            self._files["tls"] = tls.files
        self._tls = tls
        self._metrics = metrics
        self._report = report
        self._clock = clock
        # When to warn again, by setting and end.
        self._next: dict[tuple[str, float], float] = {}

    def start(self) -> None:
        """Looks once, and then every second in a thread."""
        self.look()
        threading.Thread(target=self._run, name="files", daemon=True).start()

    def look(self) -> None:
        """Reads what has changed, and reports."""
        for name, files in self._files.items():
            files.reload()
            self._metrics.file_unusable(name, bool(files.problem))
        self._report(not any(files.problem for files in self._files.values()))
        if self._tls is not None:
            self._look_at_ends(self._tls)

    def _look_at_ends(self, tls: TlsFiles) -> None:
        now = self._clock()
        for setting, end in tls.expiries.items():
            self._metrics.certificate_expires(setting, end)
            left = end - now
            if left > _WARNING_SECONDS or now < self._next.get((setting, end), 0.0):
                continue
            # Tomorrow again, and when it ends.
            self._next[setting, end] = now + (min(_DAY, left) if left > 0 else _DAY)
            extra = {
                setting: str(tls.files.paths[setting]),
                "expires": datetime.datetime.fromtimestamp(end, datetime.UTC).isoformat(),
            }
            event = "certificate expires soon" if left > 0 else "certificate has expired"
            _log.warning(event, extra=extra)

    def _run(self) -> None:
        while True:
            time.sleep(_LOOK_SECONDS)
            try:
                self.look()
            except Exception:  # after which files are still to be looked at
                _log.exception("files could not be looked at")
