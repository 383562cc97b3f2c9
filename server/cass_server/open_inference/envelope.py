"""The raw tensors of a serialized `ModelInferRequest` apart from the rest of it."""

from __future__ import annotations

from typing import Final, NamedTuple

from cass_core.errors import InvalidRequest

# Fields by what they begin with.
_ID: Final = 3 << 3 | 2
_RAW: Final = 7 << 3 | 2
# More than any honest request has.
_MOST_FIELDS: Final = 256
_LONGEST_VARINT: Final = 5
_DELIMITED: Final = 2


class Envelope(NamedTuple):
    """A request in three parts.

    Attributes:
        head: the message without the two others, which is the same from request to request.
        id: the bytes of ``id``.
        raw: views of ``raw_input_contents``.
    """

    head: bytes
    id: bytes
    raw: list[memoryview]


def envelope(data: bytes) -> Envelope:
    """Takes a message apart.

    Raises:
        InvalidRequest: it is no `ModelInferRequest`, or has more than 256 fields.
    """
    view, size = memoryview(data), len(data)
    pieces: list[memoryview] = []
    raw: list[memoryview] = []
    identity = b""
    at = kept = 0
    try:
        for _ in range(_MOST_FIELDS):
            if at == size:
                break
            tag, length, body = data[at], data[at + 1], at + 2
            if tag & 7 != _DELIMITED or tag >= 0x80:
                raise _refusal()  # all of its fields are such
            if length >= 0x80:
                length, body = _length(data, at + 1)
            after = body + length
            if after > size:
                raise _refusal()
            if tag in (_ID, _RAW):
                if at > kept:
                    pieces.append(view[kept:at])
                kept = after
                if tag == _RAW:
                    raw.append(view[body:after])
                else:
                    identity = data[body:after]
            at = after
        else:
            if at < size:
                raise InvalidRequest("request", f"has more than {_MOST_FIELDS} fields")
    except IndexError:
        raise _refusal() from None
    if at > kept:
        pieces.append(view[kept:at])
    return Envelope(b"".join(pieces), identity, raw)


def raw_contents(data: bytes, at: int) -> list[memoryview] | None:
    """Views of ``raw_input_contents`` from there on; None if anything else is there.

    Of a request without an id whose other fields end there.
    """
    view, size = memoryview(data), len(data)
    raw: list[memoryview] = []
    try:
        while at < size:
            if data[at] != _RAW or len(raw) >= _MOST_FIELDS:
                return None
            length, body = data[at + 1], at + 2
            if length >= 0x80:
                length, body = _length(data, at + 1)
            at = body + length
            raw.append(view[body:at])
    except IndexError:
        return None
    return raw if at == size else None


def _length(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for i in range(_LONGEST_VARINT):
        byte = data[at + i]
        value |= (byte & 0x7F) << (7 * i)
        if byte < 0x80:
            return value, at + i + 1
    raise _refusal()


def _refusal() -> InvalidRequest:
    return InvalidRequest("request", "is not an inference.ModelInferRequest")
