"""One JSON object a line, on standard error."""

from __future__ import annotations

import logging
import os
import sys
from typing import TextIO

from pythonjsonlogger.json import JsonFormatter


class _Handler(logging.StreamHandler[TextIO]):
    """Drops a line that cannot be written, as on a full disk."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        """Reports mistakes in the logging call, but not a failure of the stream itself."""
        if not isinstance(sys.exception(), OSError):
            super().handleError(record)


def set_up_logging(level: str) -> None:
    """Sends the log of the project and of gRPC to standard error.

    Each key of ``extra`` becomes a field, as in ``extra={"request_id": …}``; the traceback of
    an exception is the field ``exc_info``.

    Args:
        level: ``debug``, ``info``, ``warning`` or ``error``.
    """
    handler = _Handler(_standard_error())
    handler.setFormatter(
        JsonFormatter(
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
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.getLogger("grpc._cython.cygrpc").addFilter(_is_no_lost_caller)


def _is_no_lost_caller(record: logging.LogRecord) -> bool:
    """False for a caller that disconnected during its answer; gRPC may log an error."""
    return not record.getMessage().startswith("ExecuteBatchError raised in core")


def _standard_error() -> TextIO:
    """Standard error, or nowhere if the process was started without one."""
    if sys.stderr is None:
        # Some library writes to descriptor 2 all the same: no socket must get that number.
        while (descriptor := os.open(os.devnull, os.O_RDWR)) < 2:
            pass
        if descriptor > 2:
            os.close(descriptor)
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    return sys.stderr
