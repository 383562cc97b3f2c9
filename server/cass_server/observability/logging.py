"""One JSON object a line, on standard error, which nothing waits for."""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from pythonjsonlogger.json import JsonFormatter

from cass.redaction import without_userinfo
from cass_server.observability.standard_error import StandardError

# Of one statement in the code: so many records at once, and so many a second on average.
_BURST, _PER_SECOND = 100, 10.0
# Characters of a field, and of a traceback. What callers send is in some of them.
_MOST, _MOST_TRACEBACK = 1024, 8192


class _Handler(logging.StreamHandler[StandardError]):
    """Counts what is not written by its reason, ``rate`` or ``full``."""

    def __init__(self) -> None:
        super().__init__(StandardError(lambda: self.on_drop("full")))
        self.on_drop: Callable[[str], None] = lambda _: None
        self.addFilter(_RateLimit(lambda: self.on_drop("rate")))

    def close(self) -> None:
        """Writes what is left, if somebody reads it."""
        self.stream.drain()
        super().close()


class _RateLimit(logging.Filter):
    """Drops records of a statement that logs too often.

    The next one that passes has their number in its field ``suppressed``.
    """

    def __init__(self, on_drop: Callable[[], None]) -> None:
        super().__init__()
        self._on_drop = on_drop
        # By file and line: how many may pass, as of when, and how many did not.
        self._states: dict[tuple[str, int], tuple[float, float, int]] = {}
        self._lock = threading.Lock()

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a record passes."""
        statement, now = (record.pathname, record.lineno), time.monotonic()
        with self._lock:
            left, since, suppressed = self._states.get(statement, (_BURST, now, 0))
            left = min(_BURST, left + (now - since) * _PER_SECOND)
            passes = left >= 1
            self._states[statement] = (left - 1, now, 0) if passes else (left, now, suppressed + 1)
        if not passes:
            self._on_drop()
        elif suppressed:
            record.suppressed = suppressed
        return passes


class _Formatter(JsonFormatter):
    def process_log_record(self, log_data: dict[str, Any]) -> dict[str, Any]:
        """Leaves out passwords, and shortens what is long: the end of a traceback says most."""
        for name, value in log_data.items():
            if isinstance(value, str):
                log_data[name] = value = without_userinfo(value)
                most = _MOST_TRACEBACK if name == "exc_info" else _MOST
                if len(value) > most:
                    half = most // 2
                    cut = f" … {len(value) - most} characters … "
                    log_data[name] = value[:half] + cut + value[-half:]
        return log_data


def set_up_logging(level: str) -> None:
    """Sends the log of the project and of gRPC to standard error, without ever waiting for it.

    Each key of ``extra`` becomes a field, as in ``extra={"request_id": …}``; the traceback of
    an exception is the field ``exc_info``. Long fields are shortened, and what URLs have before
    their hosts is left out. Lines are dropped and counted
    (`count_dropped`) where one statement logs more than 10 a second after a hundred, or nobody
    reads. What is still to be written at the end of the process has two seconds.

    Args:
        level: ``debug``, ``info``, ``warning`` or ``error``.
    """
    handler = _Handler()
    handler.setFormatter(
        _Formatter(
            "{asctime}{levelname}{name}{message}",
            style="{",
            rename_fields={
                "asctime": "time",
                "levelname": "level",
                "name": "logger",
                "message": "event",
            },
            datefmt="%Y-%m-%dT%H:%M:%S%z",
        )
    )
    # For what writes there without logging, as a thread's uncaught exception.
    sys.stderr = handler.stream
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.getLogger("grpc._cython.cygrpc").addFilter(_is_no_lost_caller)
    logging.getLogger("opentelemetry.util.re").addFilter(_without_headers)


def count_dropped(count: Callable[[str], None]) -> None:
    """Has ``count`` called with the reason of each line that is dropped from now on."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, _Handler):
            handler.on_drop = count


def _is_no_lost_caller(record: logging.LogRecord) -> bool:
    """False for a caller that disconnected during its answer; gRPC may log an error."""
    return not record.getMessage().startswith("ExecuteBatchError raised in core")


def _without_headers(record: logging.LogRecord) -> bool:
    """Takes a header out of OpenTelemetry's warning that it has no value to be used."""
    record.args = ("(not shown)",)
    return True
