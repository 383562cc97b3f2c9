"""A name for every request, by which the caller's log and the server's are put together."""

from __future__ import annotations

import itertools
import os
import secrets
from collections.abc import Iterable

from cass.contract import REQUEST_ID_KEY

_MAX_LENGTH = 128


class RequestIds:
    """The caller's request ids where they can be logged, else ones of our own.

    One for each process, made in it: the ids of two start differently.
    """

    def __init__(self) -> None:
        self._prefix = f"{secrets.token_hex(4)}-{os.getpid()}"
        self._count = itertools.count(1)

    def of(self, metadata: Iterable[tuple[str, str | bytes]]) -> str:
        """The id of a call.

        Args:
            metadata: of the call; the first ``x-request-id`` is taken if it has 1 to 128 characters
                of printable ASCII. It is what any caller may write: for logs, never for decisions.
        """
        for key, value in metadata:
            if key == REQUEST_ID_KEY:
                if isinstance(value, str) and _is_sane(value):
                    return value
                break
        return f"{self._prefix}-{next(self._count)}"


def _is_sane(value: str) -> bool:
    return 0 < len(value) <= _MAX_LENGTH and value.isascii() and value.isprintable()
