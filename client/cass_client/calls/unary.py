"""Unary calls: one checked request becomes as many calls and tries as it takes."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

import grpc
from google.protobuf.message import DecodeError, Message

from cass import convert
from cass.codec.decode import Views, lift
from cass.codec.encode import loss_request, mask_layout, mask_request
from cass.contract import TIMINGS_KEY
from cass.v1 import cass_pb2 as pb
from cass_client.arguments import Masks
from cass_client.calls.chunking import join_losses, join_masks, split_losses, split_masks
from cass_client.calls.retry import Attempts
from cass_client.errors import (
    NoReplicas,
    ServerError,
    Timeout,
    Unauthenticated,
    Unavailable,
    from_rpc_error,
)
from cass_client.transport.connection import Connection
from cass_client.transport.effects import Compute, Effects, Send, Sleep
from cass_client.transport.profile import CallProfile, server_timings
from cass_core.errors import CassError, InvalidRequest
from cass_core.inputs import LossInputs, MaskInputs
from cass_core.results import HostLoss

M = TypeVar("M", bound=Message)
I = TypeVar("I")  # noqa: E741 - inputs
A = TypeVar("A")


def request_masks(connection: Connection, inputs: MaskInputs) -> Effects[Masks]:
    """Masks and owner maps, as `cass_core.cpu.backend.compute_masks` gives them."""
    return _in_parts(
        connection, "GenerateMask", inputs, mask_request, _masks, split_masks, join_masks
    )


def request_losses(connection: Connection, inputs: LossInputs) -> Effects[HostLoss]:
    """Loss, sum, normaliser and gradient, as `cass_core.cpu.backend.compute_losses` gives them."""

    def join(answers: Sequence[HostLoss]) -> HostLoss:
        return join_losses(inputs, answers)

    return _in_parts(connection, "ComputeLoss", inputs, loss_request, _loss, split_losses, join)


def _masks(message: bytes, inputs: MaskInputs, connection: Connection) -> Masks:
    # Laid out as our servers do it, it need not be parsed.
    masks = mask_layout(inputs).read(message)
    if masks is None:
        masks = convert.masks_and_owners(*read(message, pb.GenerateMaskResponse, connection))
    return masks


def _loss(message: bytes, _: LossInputs, connection: Connection) -> HostLoss:
    return convert.loss_result(*read(message, pb.ComputeLossResponse, connection))


def request_info(
    connection: Connection, timeout: float | None = None
) -> Effects[pb.GetServerInfoResponse]:
    """Version, device and limits; the limits are remembered."""
    attempts = Attempts(connection.timeout if timeout is None else timeout)
    message: bytes = yield from _call(connection, "GetServerInfo", b"", attempts)
    answer, _ = read(message, pb.GetServerInfoResponse, connection)
    connection.limits = answer.limits
    return answer


def request_profile(
    connection: Connection, check: Callable[[], MaskInputs]
) -> Effects[CallProfile]:
    """Where the time of a call goes; ``check`` makes its inputs, which counts as packing."""
    started = time.perf_counter()
    inputs = check()
    request = mask_request(inputs)
    packed = time.perf_counter()
    asked = ((TIMINGS_KEY, "1"),)
    attempts = Attempts(connection.timeout)
    message, metadata = yield from _call(connection, "GenerateMask", request, attempts, asked)
    answered = time.perf_counter()
    _masks(message, inputs, connection)
    done = time.perf_counter()
    queue, compute, encode = server_timings(metadata)
    return CallProfile(
        total=done - started,
        pack=packed - started,
        wait=answered - packed - queue - compute - encode,
        queue=queue,
        compute=compute,
        encode=encode,
        unpack=done - answered,
    )


def read(message: bytes, kind: type[M], connection: Connection) -> tuple[M, Views]:
    """Parses an answer; its tensors stay views."""
    try:
        return lift(message, kind)
    except DecodeError as error:
        name = kind.DESCRIPTOR.full_name
        raise ServerError(f"{connection.target}: the answer is not a {name}") from error


def _in_parts(
    connection: Connection,
    method: str,
    inputs: I,
    encode: Callable[[I], bytes],
    decode: Callable[[bytes, I, Connection], A],
    split: Callable[[I, pb.Limits], list[I]],
    join: Callable[[Sequence[A]], A],
) -> Effects[A]:
    """Requests the whole, or its parts if the server is known to take no more."""
    attempts = Attempts(connection.timeout)
    parts = [inputs] if connection.limits is None else split(inputs, connection.limits)
    while True:
        answers = []
        try:
            for part in parts:
                message: bytes = yield from _call(connection, method, encode(part), attempts)
                answers.append(decode(message, part, connection))
        except (InvalidRequest, ServerError):
            # Perhaps it is too large: only the server knows.
            yield from _learn_limits(connection, attempts)
            finer = parts if connection.limits is None else split(inputs, connection.limits)
            if len(finer) <= len(parts):
                raise
            parts = finer
        else:
            return answers[0] if len(answers) == 1 else join(answers)


def _learn_limits(connection: Connection, attempts: Attempts) -> Effects[None]:
    try:
        yield from request_info(connection, attempts.left())
    except CassError:
        return  # the caller gets the error of the first request


def _call(
    connection: Connection,
    method: str,
    request: bytes,
    attempts: Attempts,
    metadata: tuple[tuple[str, str], ...] = (),
) -> Effects[Any]:
    """What `Send` gives, after as many tries as there is time for."""
    while True:
        timeout = attempts.timeout()
        try:
            return (yield Send(method, request, timeout, metadata))
        except NoReplicas as no_replicas:
            yield Sleep(attempts.delay_after(no_replicas))
        except grpc.RpcError as status:
            error = from_rpc_error(status, connection.target)
            error.__cause__ = status
            started = attempts.started
            if isinstance(error, Unauthenticated | Unavailable) and connection.renew(started):
                continue
            if isinstance(error, Timeout):
                connection.drop(started)
            if isinstance(error, Unavailable) and attempts.was_unavailable:
                connection.re_resolve(started)
            try:
                delay = attempts.delay_after(error)
            except Unavailable as unavailable:
                raise (yield Compute(partial(connection.explain, unavailable))) from status
            yield Sleep(delay)
