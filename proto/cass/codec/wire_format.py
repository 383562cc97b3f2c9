"""Fields of serialized messages, byte by byte."""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from google.protobuf.message import Message

LENGTH_DELIMITED: Final = 2
"""Wire type of strings, bytes, messages and packed numbers."""


def number_of(kind: type[Message], name: str) -> int:
    """The number of a field."""
    number: int = kind.DESCRIPTOR.fields_by_name[name].number
    return number


def tag_of(kind: type[Message], name: str) -> int:
    """What a length-delimited field below 16 begins with, which is one byte."""
    return number_of(kind, name) << 3 | LENGTH_DELIMITED


def delimited(tag: int, content: bytes | memoryview) -> bytes:
    """A length-delimited field below 16, whatever is in it."""
    return _head(tag, len(content)) + content


# Batches have much the same lengths; putting the bytes together anew costs as much as a copy.
@lru_cache(maxsize=1024)
def _head(tag: int, length: int) -> bytes:
    return bytes((tag,)) + varint(length)


def varint(value: int, least: int = 1) -> bytes:
    """A number of at least 0 as a varint of at least that many bytes.

    Example:
        >>> varint(300), varint(1, 3)
        (b'\\xac\\x02', b'\\x81\\x80\\x00')
    """
    parts = bytearray()
    while value >= 0x80 or len(parts) + 1 < least:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    parts.append(value)
    return bytes(parts)
