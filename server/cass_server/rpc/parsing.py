"""Messages parsed without their boxes and tensors, within the limit of what else they have."""

from __future__ import annotations

from typing import TypeVar

from google.protobuf.message import DecodeError, Message

from cass.codec.decode import Bulky, Tree, Views, lift
from cass.v1 import cass_pb2 as pb
from cass_core.errors import InvalidRequest
from cass_server.config.limits import Limits

M = TypeVar("M", bound=Message)


def parse(data: bytes, kind: type[M], limits: Limits, tree: Tree | None = None) -> tuple[M, Views]:
    """A message without its boxes and tensors, and views of these; the tree is as of `lift`.

    Raises:
        InvalidRequest: it cannot be parsed, or is too large beside them.
    """
    most = limits.rest_bytes
    try:
        return lift(data, kind, most, tree)
    except Bulky as error:
        raise InvalidRequest(
            "request",
            f"has {error.size} bytes beside its boxes and tensors, the server's limit is {most}",
        ) from None
    except DecodeError:
        raise InvalidRequest("request", f"is not a {kind.DESCRIPTOR.full_name}") from None


def read_info(data: bytes, limits: Limits) -> None:
    """Checks a serialized `GetServerInfoRequest`, which has no fields."""
    parse(data, pb.GetServerInfoRequest, limits)
