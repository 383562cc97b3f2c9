"""Bearer tokens of callers, from a file that may be replaced while the server runs."""

from __future__ import annotations

import hashlib
import hmac
import logging
import re
import stat
from collections.abc import Iterable
from pathlib import Path

from cass_core.errors import CassError
from cass_server.security.reloading_file import ReloadingFiles, read_file, warn_if_exposed

_HASH_PREFIX = "sha256:"
_HASH = re.compile("[0-9a-fA-F]{64}")
# The characters that an authorization header can carry after "Bearer ".
_TOKEN = re.compile("[!-~]+")
_MIN_CHARACTERS = 16

_log = logging.getLogger(__name__)


class TokenFile:
    """Checks callers against the tokens of a file.

    The file has one token a line; several are valid at a time, so that they can be rotated. Blank
    lines and those that begin with ``#`` are skipped. A line is a token of 16 characters or more,
    or ``sha256:`` and the hash of one, which gives nothing away to who reads the file::

        printf 'sha256:%s\\n' "$(printf %s "$TOKEN" | sha256sum | cut -d ' ' -f 1)"

    Only hashes are kept. A file without a token allows no caller. One that cannot be used leaves
    the tokens of the old one valid (`ReloadingFiles`).

    Attributes:
        file: to be read again, by a `FileWatch`.

    Raises:
        CassError: the file cannot be read, or a line is no token.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.file = ReloadingFiles("token file", {"token_file": path}, self._read)

    def allows(self, metadata: Iterable[tuple[str, str | bytes]]) -> bool:
        """Whether a call brings ``authorization: Bearer TOKEN`` with one of the tokens.

        Two such headers are refused, whatever they hold: a proxy in front may have judged the
        other one.
        """
        values = [value for key, value in metadata if key == "authorization"]
        if len(values) != 1 or not isinstance(values[0], str):
            return False
        scheme, _, token = values[0].partition(" ")
        if scheme.lower() != "bearer":
            return False
        presented = _hash(token.strip(" "))
        found = False
        # All of them, so that the time taken reveals nothing about which one is near.
        for known in self.file.content:
            found |= hmac.compare_digest(presented, known)
        return found

    def _read(self) -> tuple[bytes, ...]:
        try:
            lines = read_file("token_file", self._path).decode("utf-8-sig").splitlines()

        except UnicodeDecodeError:
            raise self._error("is not UTF-8 text") from None
        entries = [(number, line.strip()) for number, line in enumerate(lines, 1)]
        entries = [(number, entry) for number, entry in entries if entry and entry[0] != "#"]
        hashes = tuple(self._entry_hash(number, entry) for number, entry in entries)
        if not hashes:
            extra = {"token_file": str(self._path)}
            _log.warning("token file holds no token, all callers are refused", extra=extra)
        rights = stat.S_IWOTH
        if not all(entry.startswith(_HASH_PREFIX) for _, entry in entries):
            rights |= stat.S_IROTH  # hashes give nothing away
        warn_if_exposed("token_file", self._path, rights)
        return hashes

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
