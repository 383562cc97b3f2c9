"""Reads the top-level lists of a JSON file entry by entry: of pipes, gzip and UTF-16 too."""

from __future__ import annotations

import codecs
import gzip
import json
import os
import re
import stat
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar

import ijson
import numpy as np

from cass_cli.options import printable
from cass_core.errors import CassError, InvalidRequest

if TYPE_CHECKING:
    from rich.progress import Progress

Entries = Callable[[str], Iterator[Any]]
"""The entries of the top-level list of that name, from its beginning."""

T = TypeVar("T")


class MissingList(InvalidRequest):
    """A file has nothing under the name of a list."""


_PART = 1 << 20
_DEEPEST = 1000
_FLAT = bytes(set(range(256)) - set(b'[]{}"'))
_ESCAPE = re.compile(rb"\\.", re.DOTALL)
_TEXT = re.compile(rb'"[^"]*("|$)')
_MAGIC = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zX": "xz",
    b"PK\x03\x04": "zip",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"7z\xbc\xaf": "7z",
}


def read_lists(path: Path, progress: Progress | None, read: Callable[[Entries], T]) -> T:
    """Have a function read a file, which may call for several lists, one after the other.

    Memory does not grow with the file, unless it has numbers that the streaming parser refuses.
    Then the function is called a second time.

    Raises:
        InvalidRequest: the file is not JSON.
        MissingList: it has no such list.
        OSError: it cannot be read.
    """
    with _opened(path) as source:
        try:
            return read(_streamed(source, path.name, progress))
        except ijson.JSONError as error:
            reason = _reason(error)
            if not re.search("overflow|NaN|Infinity", reason):
                raise InvalidRequest(path.name, f"is not JSON ({reason})") from error
        # Python's parser takes integers of any size, and the NaN that it writes.
        source.seek(0)
        try:
            content = json.load(source, object_hook=_without_polygons)
        except (ValueError, RecursionError) as error:
            raise InvalidRequest(path.name, f"is not JSON ({error})") from error
        return read(_loaded(content))


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    """What is no regular file of UTF-8 without a byte order mark is copied to one first."""
    with ExitStack() as files:
        mode = path.stat().st_mode
        if stat.S_ISCHR(mode) or stat.S_ISBLK(mode):  # which may never end
            raise InvalidRequest(path.name, "is neither a file nor a pipe")
        file: BinaryIO = files.enter_context(path.open("rb"))
        if stat.S_ISFIFO(mode):
            file = _copy(iter(lambda: file.read(_PART), b""), files)
        try:
            packed = _compression(file)
            if packed == "gzip":
                unpacked = files.enter_context(gzip.GzipFile(fileobj=file))
                file = _copy(iter(lambda: unpacked.read(_PART), b""), files)
                inner = _compression(file)
                packed = None if inner is None else f"{inner} within gzip"
            if packed is not None:
                raise InvalidRequest(path.name, f"is compressed with {packed}; only gzip is read")
            encoding = json.detect_encoding(_head(file))
            if encoding != "utf-8":
                decoder = codecs.iterdecode(iter(lambda: file.read(_PART), b""), encoding)
                file = _copy((text.encode() for text in decoder), files)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise InvalidRequest(path.name, f"is not a whole gzip file ({error})") from error
        except UnicodeError as error:
            raise InvalidRequest(path.name, f"is not {encoding.upper()} throughout") from error
        yield file


def _compression(file: BinaryIO) -> str | None:
    head = _head(file)
    return next((name for magic, name in _MAGIC.items() if head.startswith(magic)), None)


def _head(file: BinaryIO) -> bytes:
    file.seek(0)
    head = file.read(4)
    file.seek(0)
    return head


def _copy(parts: Iterable[bytes], files: ExitStack) -> BinaryIO:
    copy: BinaryIO = files.enter_context(tempfile.TemporaryFile())  # noqa: SIM115
    try:
        copy.writelines(parts)
        copy.flush()
    except OSError as error:
        with suppress(OSError):  # it would try once more to write the rest
            copy.close()
        if error.errno is None:  # what gzip says of a broken file
            raise
        raise CassError(f"{tempfile.gettempdir()}: {error.strerror}, for a copy") from error
    return copy


def _streamed(source: BinaryIO, name: str, progress: Progress | None) -> Entries:
    """Lists of a file that is parsed anew for each."""

    def entries(key: str) -> Iterator[Any]:
        source.seek(0)
        file: Any = source
        if progress is not None:
            label, size = printable(f"{name}: {key}"), os.fstat(source.fileno()).st_size
            file = progress.wrap_file(source, total=size, description=label)
        seen = False
        for entry in ijson.items(_Shallow(file, name), f"{key}.item", use_float=True):
            seen = True
            yield entry
        if not seen:
            source.seek(0)
            events = {event for prefix, event, _ in ijson.parse(source) if prefix == key}
            if "start_array" not in events:
                raise _no_list(key, there=bool(events))

    return entries


class _Shallow:
    """A file's bytes, unless they nest lists and objects without end.

    ijson holds the path of every level, which takes memory with the square of the depth.
    """

    def __init__(self, file: Any, name: str) -> None:
        self._file = file
        self._name = name
        self._depth = 0
        self._in_text = False
        self._escaped = b""

    def read(self, size: int = -1) -> bytes:
        """The next bytes.

        Raises:
            InvalidRequest: they are nested too deep.
        """
        part: bytes = self._file.read(size)
        self._measure(part)
        return part

    def _measure(self, part: bytes) -> None:
        text = self._escaped + part
        self._escaped = b""
        if b"\\" in text:
            text = _ESCAPE.sub(b"", text)
            if text.endswith(b"\\"):
                self._escaped = b"\\"
        # Without all else, the rest is short: quickly done with.
        text = (b'"' if self._in_text else b"") + text.translate(None, _FLAT)
        self._in_text = text.count(b'"') % 2 == 1
        brackets = np.frombuffer(_TEXT.sub(b"", text), np.uint8)
        if len(brackets):
            opening = (brackets == ord("[")) | (brackets == ord("{"))
            depths = self._depth + np.cumsum(np.where(opening, 1, -1))
            if depths.max() > _DEEPEST:
                reason = f"nests lists or objects more than {_DEEPEST} deep"
                raise InvalidRequest(self._name, reason)
            self._depth = int(depths[-1])


def _loaded(content: Any) -> Entries:
    """Lists of a parsed file."""

    def entries(key: str) -> Iterator[Any]:
        there = isinstance(content, dict) and key in content
        if not there or not isinstance(content[key], list):
            raise _no_list(key, there)
        return iter(content[key])

    return entries


def _no_list(key: str, there: bool) -> InvalidRequest:
    return InvalidRequest(key, "is not a list") if there else MissingList(key, "is missing")


def _reason(error: ijson.JSONError) -> str:
    """What the parser says, and where: it gives bytes if the text is not UTF-8."""
    message = error.args[0]
    text = message.decode("utf-8", "replace") if isinstance(message, bytes) else str(message)
    reason, *near = (line.strip() for line in text.split("\n"))
    return f"{reason.rstrip('.')}, near {near[0]!r}" if near and near[0] else reason


def _without_polygons(entry: dict[str, Any]) -> dict[str, Any]:
    """Drops the bulk of a file while it is parsed."""
    entry.pop("segmentation", None)
    return entry
