"""Files that are read again once they have changed, as when a secret is rotated."""

from __future__ import annotations

import contextlib
import logging
import stat
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Generic, TypeVar

from cass.redaction import shown_path
from cass_core.errors import CassError

_log = logging.getLogger(__name__)

Content = TypeVar("Content")


class ReloadingFiles(Generic[Content]):
    """The content of files that belong together; safe to use from several threads.

    Files that cannot be used, as between the two halves of a rotation, leave the old ``content``;
    each new reason is logged once, and is the ``problem``, which is empty for files that are used.

    Args:
        title: names the files in the log.
        files: the paths by their settings' names; kept as ``paths``.
        read: reads the content, and raises `CassError` if it cannot be used; what OpenSSL or the
            system raises of files that change meanwhile is a problem, too.

    Raises:
        CassError: a file cannot be used.
    """

    def __init__(self, title: str, files: Mapping[str, Path], read: Callable[[], Content]) -> None:
        self.title = title
        self.paths = files
        self._read = read
        self._lock = threading.Lock()
        self.problem = ""
        self._loaded = self._states()
        self.content = read()

    def reload(self) -> bool:
        """Read the files if one of them has changed; whether there is new content."""
        with self._lock:
            try:
                states = self._states()
                changed = states != self._loaded
                if changed:
                    self.content = self._read()
            except (CassError, OSError, ValueError) as error:
                # Tried again at every call: what made a read fail may pass without a trace in the
                # files' states.
                if str(error) != self.problem:
                    self.problem = str(error)
                    extra = {"reason": self.problem}
                    _log.error("%s not usable, the old content stays", self.title, extra=extra)
                return False
            # Taken before the read, so that a change during it is seen at the next call.
            self._loaded, self.problem = states, ""
        if changed:
            extra = {name: str(path) for name, path in self.paths.items()}
            _log.info("%s read again", self.title, extra=extra)
        return changed

    def _states(self) -> list[tuple[int, int, int]]:
        """Times, sizes and inodes, which change when a file is written or a link is moved."""
        states = []
        for name, path in self.paths.items():
            try:
                found = path.stat()
            except OSError as error:
                raise unreadable(name, path, error) from None
            states.append((found.st_mtime_ns, found.st_size, found.st_ino))
        return states


def read_file(name: str, path: Path) -> bytes:
    """The bytes of the file that a setting names.

    Raises:
        CassError: the file cannot be read.
    """
    try:
        # A pipe is empty the second time, or nobody writes to it; a device may have no end.
        if stat.S_IFMT(path.stat().st_mode) not in (stat.S_IFREG, stat.S_IFDIR):
            raise CassError(f"{name} {path}: is no regular file, which can be read again")
        return path.read_bytes()
    except OSError as error:
        raise unreadable(name, path, error) from None


def warn_if_exposed(name: str, path: Path, rights: int = stat.S_IROTH | stat.S_IWOTH) -> None:
    """Logs a warning where every user of the machine has one of these rights to a secret."""
    path = path.resolve()
    with contextlib.suppress(OSError):
        mode = path.stat().st_mode
        if mode & rights and all(folder.stat().st_mode & stat.S_IXOTH for folder in path.parents):
            extra = {name: str(path), "mode": f"{stat.S_IMODE(mode):04o}"}
            _log.warning("secret open to every user", extra=extra)


def unreadable(name: str, path: Path, error: OSError) -> CassError:
    """The error for a setting's file that cannot be read."""
    return CassError(f"{name} {shown_path(path)}: cannot be read: {error.strerror}")
