"""Bearer tokens of callers, from a file that may be replaced while the server runs."""

from __future__ import annotations

import hashlib
import hmac
import re
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from cass_core.errors import CassError
from cass_server.security.reloading_file import ReloadingFiles, read_file

_HASH_PREFIX = "sha256:"
_HASH = re.compile("[0-9a-fA-F]{64}")
# The characters that an authorization header can carry after "Bearer ".
_TOKEN = re.compile("[!-~]+")
_MIN_CHARACTERS = 16
_SECONDS_BETWEEN_LOOKS = 1.0


class TokenFile:
    """Checks callers against the tokens of a file.

    The file has one token a line; several are valid at a time, so that they can be rotated. Blank
    lines and those that begin with ``#`` are skipped. A line is a token of 16 characters or more,
    or ``sha256:`` and the hash of one, which gives nothing away to who reads the file::

        printf 'sha256:%s\\n' "$(printf %s "$TOKEN" | sha256sum | cut -d ' ' -f 1)"

    Only hashes are kept. A changed file counts within a second; while it cannot be used, the
    tokens of the old one stay valid (`ReloadingFiles`).

    Raises:
        CassError: the file cannot be read, holds no token, or a line is no token.
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._clock = clock
        self._next_look = clock() + _SECONDS_BETWEEN_LOOKS
        self._file = ReloadingFiles("token file", {"token_file": path}, self._read)

    def allows(self, metadata: Iterable[tuple[str, str | bytes]]) -> bool:
        """Whether a call brings ``authorization: Bearer TOKEN`` with one of the tokens.

        Two such headers are refused, whatever they hold: a proxy in front may have judged the
        other one.
        """
        if self._clock() >= self._next_look:
            self._next_look = self._clock() + _SECONDS_BETWEEN_LOOKS
            self._file.reload()
        values = [value for key, value in metadata if key == "authorization"]
        if len(values) != 1 or not isinstance(values[0], str):
            return False
        scheme, _, token = values[0].partition(" ")
        if scheme.lower() != "bearer":
            return False
        presented = _hash(token.strip(" "))
        found = False
        # All of them, so that the time taken reveals nothing about which one is near.
        for known in self._file.content:
            found |= hmac.compare_digest(presented, known)
        return found

    def _read(self) -> tuple[bytes, ...]:
        try:
            lines = read_file("token_file", self._path).decode("utf-8-sig").splitlines()

        except UnicodeDecodeError:
            raise self._error("is not UTF-8 text") from None
        hashes = []
        for number, line in enumerate(lines, 1):
            entry = line.strip()
            if entry and not entry.startswith("#"):
                hashes.append(self._entry_hash(number, entry))
        if not hashes:
            raise self._error("holds no token")
        return tuple(hashes)

    def _entry_hash(self, number: int, entry: str) -> bytes:
        # The messages go to the log: they never quote the line.
        if entry.startswith(_HASH_PREFIX):
            digits = entry.removeprefix(_HASH_PREFIX)
            if not _HASH.fullmatch(digits):
                raise self._error(f"line {number}: is not sha256: and 64 hexadecimal digits")
            return bytes.fromhex(digits)
        if not _TOKEN.fullmatch(entry):
            raise self._error(f"line {number}: a token is ASCII without spaces")
        if len(entry) < _MIN_CHARACTERS:
            raise self._error(f"line {number}: a token has {_MIN_CHARACTERS} characters or more")
        return _hash(entry)

    def _error(self, reason: str) -> CassError:
        return CassError(f"token_file {self._path}: {reason}")


def _hash(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()
