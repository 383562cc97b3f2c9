"""Reads a serialized `ModelInferRequest` into a request that an engine computes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from cass.inference import grpc_predict_v2_pb2 as pb
from cass_core.cpu.small import SmallFill
from cass_core.errors import InvalidRequest
from cass_core.inputs import MaskInputs
from cass_server.config.limits import Limits
from cass_server.open_inference.envelope import envelope, raw_contents
from cass_server.open_inference.models import MASK, check_known
from cass_server.open_inference.options import LossOptions, MaskOptions, Options
from cass_server.open_inference.tensors import TREE, typed_contents
from cass_server.rpc.parsing import parse
from cass_server.rpc.requests import MaskReader, Request

# The longest heads that are remembered, and how many.
_KEPT_BYTES, _KEPT_HEADS = 1024, 512
# So that an error fits into the metadata of an answer.
_MOST_LETTERS: Final = 500

_INPUTS: Final = {
    "boxes": "BOXES",
    "boxes.xyxy": "BOXES",
    "boxes.counts": "COUNTS",
    "image_size": "IMAGE_SIZES",
    "feature_map": "FEATURE_MAPS",
    "logits": "LOGITS",
    "target": "TARGET",
    "weights": "WEIGHTS",
}
"""The inputs by the fields of our own contract."""


class InferReader:
    """Reads the requests of ``ModelInfer``, or if ``streamed`` those of ``ModelStreamInfer``.

    What clients send beside the tensors' elements is the same from request to request: it is worked
    out once, and looked up by its bytes. Raises `InvalidRequest`, or `NotFound` for another model.
    """

    def __init__(
        self,
        limits: Limits,
        small_fill: Callable[[MaskInputs], SmallFill | None] | None,
        *,
        streamed: bool = False,
    ) -> None:
        self._limits = limits
        self._masks = MaskReader(limits, small_fill)
        self._streamed = streamed
        self._known: dict[bytes, Options] = {}
        self._length = 0  # of the short head that was read last

    def __call__(self, data: bytes) -> Request:
        """The request in a message."""
        try:
            return self._read(data)
        except InvalidRequest as error:
            raise InvalidRequest(_input(error.field), _short(error.reason)) from None

    def _read(self, data: bytes) -> Request:
        # Most messages begin with a head of that length, and then have raw contents alone.
        length = self._length  # which other threads set
        known = self._known.get(data[:length])
        if known is not None and (rest := raw_contents(data, length)) is not None:
            return known.read(rest, b"")
        head, identity, raw = envelope(data)
        if identity:
            self._check_id(identity)
        known, is_short = None, len(head) <= _KEPT_BYTES
        if is_short:
            self._length = len(head)
            known = self._known.get(head)
        if known is not None:
            return known.read(raw, identity)
        message, views = parse(head, pb.ModelInferRequest, self._limits, TREE)
        contents = typed_contents(message, views)
        check_known(message.model_name, message.model_version)
        options: Options
        if message.model_name == MASK:
            options = MaskOptions(message, self._limits, self._masks, streamed=self._streamed)
        else:
            options = LossOptions(message, self._limits, streamed=self._streamed)
        if contents is not None:
            if raw:
                raise InvalidRequest("raw_input_contents", "must be empty beside typed contents")
            return options.read(contents, identity)
        request = options.read(raw, identity)
        if is_short:
            if len(self._known) >= _KEPT_HEADS:
                self._known.clear()
            self._known[head] = options
        return request

    def _check_id(self, identity: bytes) -> None:
        if len(identity) > _MOST_LETTERS:
            raise InvalidRequest("id", f"has {len(identity)} bytes, at most {_MOST_LETTERS} fit")
        try:
            identity.decode()
        except UnicodeDecodeError:
            raise InvalidRequest("id", "is not UTF-8") from None


def _input(field: str) -> str:
    """The input that a field stands for; others have their name."""
    name, bracket, place = field.partition("[")
    if name not in _INPUTS:
        return _short(field)
    return _short(_INPUTS[name] + bracket + place)


def _short(text: str) -> str:
    return text if len(text) <= _MOST_LETTERS else f"{text[:_MOST_LETTERS]}…"
