"""Files that are there whole or not at all."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from cass_core.errors import CassError, InvalidRequest


class Stopped(BaseException):
    """A signal asks the process to end; no `except Exception` on the way holds it up.

    Its arguments are what happened, in words, and the signal's number.
    """


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """A file to write, which takes the place of ``path`` once it is whole and on the disk.

    A link is followed, and a file that is replaced hands down owner and permissions. A pipe or a
    device is written to as it is.

    Raises:
        CassError: it cannot be written; the path is named.
        OSError: likewise, before anything was written.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "values.bin"
        >>> with whole_file(path) as file:
        ...     file.write(b"1234"), path.exists()
        (4, False)
        >>> path.read_bytes()
        b'1234'
    """
    before = None
    with suppress(FileNotFoundError):
        before = path.stat()
    if before is None or stat.S_ISREG(before.st_mode):
        if before is not None and not os.access(path, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        target = path.resolve()
        # A name of its own length would be too long where the target's barely is not.
        part = target.with_name(f".{target.name[:40]}.{os.getpid()}.part")
    else:
        target = part = path
    try:
        with part.open("wb") as file:
            if before is not None and part is not target:
                with suppress(OSError, AttributeError):  # others' files; Windows
                    os.chown(part, before.st_uid, before.st_gid)
                part.chmod(stat.S_IMODE(before.st_mode))
            yield file
            file.flush()
            if part is not target:
                # Or a crash of the machine may leave the new name with nothing under it.
                os.fsync(file.fileno())
        if part is not target:
            part.replace(target)
    except OSError as error:
        if error.filename not in (None, str(part)):
            raise
        raise CassError(f"{path}: {error.strerror or error}; it is not written") from error
    except Stopped as stop:
        raise Stopped(f"{path}: {stop.args[0]}; it is not written", *stop.args[1:]) from None
    finally:
        if part is not target:
            with suppress(OSError):
                part.unlink()


def keep_inputs(option: str, output: Path, *inputs: Path | None) -> None:
    """Rejects to write over what is read.

    Raises:
        InvalidRequest: the output is one of the inputs.
    """
    for path in inputs:
        if path is not None and path.exists() and output.exists() and output.samefile(path):
            raise InvalidRequest(option, f"{output} is what is read: give another path")
