"""Takes the large `bytes` fields out of a serialized message as views, before it is parsed.

Protobuf copies such a field once as it parses and once more at each access. What is left of the
message, small by then, is parsed by protobuf as ever.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, TypeAlias, TypeVar, Union

from google.protobuf.descriptor import Descriptor
from google.protobuf.message import Message

from cass.codec.wire_format import LENGTH_DELIMITED, varint
from cass.v1 import cass_pb2 as pb

Views: TypeAlias = dict[str, list[memoryview]]
Tree: TypeAlias = Mapping[int, Union["_Branch", None]]
_Branch: TypeAlias = tuple[str, bool, Tree]
M = TypeVar("M", bound=Message)

# Below that, protobuf's copies cost less than finding the fields does: 2 µs against 7.
_WORTHWHILE_BYTES = 1 << 15
# More fields than any honest message has; a message of many small ones is protobuf's to read.
_MOST_FIELDS = 256
_MOST_VARINT_BYTES = 10
# Bytes of the wire types of fixed size.
_FIXED: Final = {1: 8, 5: 4}


def tree_of(descriptor: Descriptor | None, paths: tuple[str, ...], prefix: str = "") -> Tree:
    """Fields by number: (dotted name, if it is repeated, what is below), or None for the bytes.

    Each path is that of a large field, with ``[]`` after the names of repeated messages.
    """
    tree: dict[int, _Branch | None] = {}
    assert descriptor is not None  # of a field that is a message
    for head in {path.partition(".")[0] for path in paths}:
        name = head.removesuffix("[]")
        field = descriptor.fields_by_name[name]
        below = tuple(path.partition(".")[2] for path in paths if path.startswith(f"{head}."))
        if below:
            nested = tree_of(field.message_type, below, f"{prefix}{name}.")
            tree[field.number] = (f"{prefix}{name}", head != name, nested)
        else:
            tree[field.number] = None
    return tree


_OF_BOXES = ("boxes.xyxy", "ignore.xyxy", "valid_region.data", "box_weights.data")
# Repeated messages are marked by [].
_OF_MASKS = ("masks[].data", "owners[].data", "weights[].data")
_TREES: Final[dict[type[Message], Tree]] = {
    kind: tree_of(kind.DESCRIPTOR, paths)  # type: ignore[attr-defined]
    for kind, paths in {
        pb.GenerateMaskRequest: _OF_BOXES,
        pb.StreamMasksRequest: tuple(f"request.{path}" for path in _OF_BOXES),
        pb.ComputeLossRequest: (
            *("logits.data", "target.data", "weights.data"),
            *(f"mask.{path}" for path in _OF_BOXES),
        ),
        pb.GenerateMaskResponse: _OF_MASKS,
        pb.StreamMasksResponse: tuple(f"masks.{path}" for path in _OF_MASKS),
        pb.ComputeLossResponse: ("loss.data", "grad.data"),
    }.items()
}


class _Unusual(Exception):
    """Valid or not, this message is for protobuf alone to read."""


class Bulky(ValueError):
    """More bytes of a message, `size`, are left for protobuf than it may be given."""

    def __init__(self, size: int) -> None:
        super().__init__(f"{size} bytes are left of the message")
        self.size = size


def lift(
    data: bytes, kind: type[M], most: int | None = None, tree: Tree | None = None
) -> tuple[M, Views]:
    """Parses a serialized message of a kind, its large fields apart.

    Protobuf is given at most ``most`` bytes to parse, else `Bulky` is raised: it holds the GIL
    meanwhile, for up to 70 ns per byte. Messages that are none of ours come with a ``tree``.

    Returns:
        The message without the large fields, and these as views of ``data``, by the dotted name
        of the message around them (``boxes``, ``mask.boxes``, ``masks``), one entry for each
        such message in their order, empty where it has none. A message in which a field comes
        twice, that is otherwise unusual, or that is small is parsed whole, and there are no views.

    Example:
        >>> request = pb.GenerateMaskRequest(boxes=pb.BoxBatch(xyxy=bytes(48000), counts=[3000]))
        >>> rest, views = lift(request.SerializeToString(), pb.GenerateMaskRequest)
        >>> rest.boxes.xyxy, rest.boxes.counts[0], views["boxes"][0].nbytes
        (b'', 3000, 48000)
    """
    rest, views = data, Views()
    tree = _TREES.get(kind) if tree is None else tree
    if len(data) >= _WORTHWHILE_BYTES and tree is not None:
        try:
            rest = _rest(memoryview(data), 0, len(data), tree, "", views, [_MOST_FIELDS], most)
        except (_Unusual, IndexError):
            views.clear()
    if most is not None and len(rest) > most:
        raise Bulky(len(rest))
    return kind.FromString(rest), views


def _rest(
    data: memoryview,
    start: int,
    end: int,
    tree: Tree,
    name: str,
    views: Views,
    fields_left: list[int],
    most: int | None,
) -> bytes:
    """The message from start to end without its large fields, which go to ``views``."""
    pieces: list[bytes | memoryview] = []
    seen: set[int] = set()
    at = kept = start
    while at < end:
        fields_left[0] -= 1
        if fields_left[0] < 0:
            raise _Unusual
        tag, body = _varint(data, at)
        wire_type = tag & 7
        if wire_type == LENGTH_DELIMITED:
            length, body = _varint(data, body)
            after = body + length
            number = tag >> 3
            if number in tree:
                branch = tree[number]
                if number in seen and (branch is None or not branch[1]):
                    raise _Unusual  # protobuf merges the two, or takes the later
                seen.add(number)
                if after > end:
                    raise _Unusual
                pieces.append(data[kept:at])
                kept = after
                if branch is None:
                    views[name][-1] = data[body:after]
                else:
                    dotted, _, below = branch
                    if None in below.values():
                        views.setdefault(dotted, []).append(data[0:0])
                    inner = _rest(data, body, after, below, dotted, views, fields_left, most)
                    pieces += (varint(tag), varint(len(inner)), inner)
        elif wire_type == 0:
            _, after = _varint(data, body)
        elif wire_type in _FIXED:
            after = body + _FIXED[wire_type]
        else:
            raise _Unusual
        at = after
    if at != end:
        raise _Unusual
    pieces.append(data[kept:end])
    size = sum(map(len, pieces))
    if most is not None and size > most:
        raise Bulky(size)  # before it is copied, holding the GIL
    return b"".join(pieces)


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    """The number that begins there, and where the next thing does."""
    byte = data[at]
    if byte < 0x80:
        return byte, at + 1
    value = byte & 0x7F
    for i in range(1, _MOST_VARINT_BYTES):
        byte = data[at + i]
        value |= (byte & 0x7F) << (7 * i)
        if byte < 0x80:
            return value, at + i + 1
    raise _Unusual
