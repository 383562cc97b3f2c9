"""Reads answers and compares them with their requests: what does not fit is never returned."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TypeVar

from google.protobuf.message import DecodeError, Message

from cass import convert
from cass.codec.decode import Views, lift
from cass.codec.encode import mask_layout
from cass.dtypes import NAMES, NUMBERS
from cass.v1 import cass_pb2 as pb
from cass_client.arguments import Masks
from cass_client.errors import ServerError
from cass_core.errors import InvalidRequest
from cass_core.inputs import LossInputs, MaskInputs
from cass_core.results import HostLoss, divisor_of

M = TypeVar("M", bound=Message)
I = TypeVar("I")  # noqa: E741 - inputs
A = TypeVar("A")

# Of a shape in an error.
_MOST_SIDES = 8
_ROUNDING = 1e-9


def read(decode: Callable[[bytes, I], A], message: bytes, inputs: I, target: str) -> A:
    """An answer, by one of the functions below.

    Raises:
        ServerError: it is not what ``inputs`` request; names both, after the target.
    """
    try:
        return decode(message, inputs)
    except ValueError as error:  # among others an InvalidRequest, which is not the caller's here
        raise ServerError(f"{target}: the answer does not fit the request: {error}") from error


def masks(message: bytes, inputs: MaskInputs) -> Masks:
    """Masks and owner maps of a `GenerateMaskResponse`."""
    # Laid out as our servers do it, it need not be parsed: number, dtypes and shapes of the tensors
    # are in the headers that the layout compares.
    found = _read_layout(message, inputs, entry=False)
    if found is None:
        answer, views = _parse(message, pb.GenerateMaskResponse)
        found = _masks(answer, views, "", inputs)
    return found


def entry(message: bytes, inputs: MaskInputs) -> Masks | None:
    """Masks and owner maps of a `StreamMasksResponse`; None if it is an error."""
    found = _read_layout(message, inputs, entry=True)
    if found is None:
        answer, views = _parse(message, pb.StreamMasksResponse)
        result = answer.WhichOneof("result")
        if result is None:
            raise InvalidRequest("result", "must be masks or an error, got neither")
        if result == "masks":
            found = _masks(answer.masks, views, "masks.", inputs)
    return found


def loss(message: bytes, inputs: LossInputs) -> HostLoss:
    """Loss, sum, normaliser and gradient of a `ComputeLossResponse`."""
    answer, views = _parse(message, pb.ComputeLossResponse)
    shape, dtype, spec = inputs.logits.shape, inputs.logits_dtype, inputs.spec
    real = "float64" if dtype == "float64" else "float32"
    _compare(answer.loss, "loss", real, shape if spec.reduction == "none" else ())
    if answer.HasField("grad") != inputs.return_grad:
        raise InvalidRequest("grad", "is missing" if inputs.return_grad else "was not requested")
    if inputs.return_grad:
        _compare(answer.grad, "grad", dtype, shape)
    normalizer = divisor_of(inputs)
    weighed = inputs.mask is not None and inputs.mask.weighting is not None
    if spec.reduction == "mean" and weighed:
        normalizer = max(answer.normalizer, 0.0)  # the sum of weights that are not sent
    # A device adds weights up in another order.
    if not math.isclose(answer.normalizer, normalizer, rel_tol=_ROUNDING):
        raise InvalidRequest("normalizer", f"must be {normalizer}, got {answer.normalizer}")
    return convert.loss_result(answer, views)


def info(message: bytes, _: None) -> pb.GetServerInfoResponse:
    """A `GetServerInfoResponse`."""
    return _parse(message, pb.GetServerInfoResponse)[0]


def _read_layout(message: bytes, inputs: MaskInputs, *, entry: bool) -> Masks | None:
    """The arrays of an answer that is laid out as our servers do it; None for any other."""
    try:
        layout = mask_layout(inputs, entry=entry)
    except ValueError:  # the masks are too long for a message, so that this one is an error
        return None
    return layout.read(message)


def _parse(message: bytes, kind: type[M]) -> tuple[M, Views]:
    """The message, whose tensors stay views."""
    try:
        return lift(message, kind)
    except DecodeError as error:
        raise InvalidRequest("answer", f"is not a {kind.DESCRIPTOR.full_name}") from error


def _masks(answer: pb.GenerateMaskResponse, views: Views, at: str, inputs: MaskInputs) -> Masks:
    shapes = inputs.shapes()
    _compare_levels(answer.masks, "masks", inputs.dtype, shapes)
    _compare_levels(answer.owners, "owners", "int32", shapes if inputs.return_owner else [])
    weighs = inputs.weighting is not None
    _compare_levels(answer.weights, "weights", "float32", shapes if weighs else [])
    return convert.masks_of(answer, views, at)


def _compare_levels(
    tensors: Sequence[pb.Tensor], field: str, dtype: str, shapes: Sequence[tuple[int, ...]]
) -> None:
    if len(tensors) != len(shapes):
        raise InvalidRequest(field, f"requested {len(shapes)}, got {len(tensors)}")
    for i, (tensor, shape) in enumerate(zip(tensors, shapes, strict=True)):
        _compare(tensor, f"{field}[{i}]", dtype, shape)


def _compare(tensor: pb.Tensor, field: str, dtype: str, shape: tuple[int, ...]) -> None:
    """Compares dtype and shape; `convert` compares the length of the data with them."""
    sides = tuple(tensor.shape)
    if tensor.dtype != NUMBERS[dtype] or sides != shape:
        name = NAMES.get(tensor.dtype, f"dtype {tensor.dtype}")
        rest = ", ..." if len(sides) > _MOST_SIDES else ""
        got = f"{name} [{', '.join(map(str, sides[:_MOST_SIDES]))}{rest}]"
        raise InvalidRequest(field, f"requested {dtype} {list(shape)}, got {got}")
