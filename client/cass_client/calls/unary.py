"""Unary calls: one checked request becomes as many calls and tries as it takes."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

import grpc

from cass.codec.encode import loss_request, mask_request
from cass.contract import TIMINGS_KEY
from cass.features import features_of
from cass.v1 import cass_pb2 as pb
from cass_client.arguments import Masks
from cass_client.calls import answers
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

I = TypeVar("I", MaskInputs, LossInputs)  # noqa: E741 - inputs
A = TypeVar("A")


def request_masks(connection: Connection, inputs: MaskInputs) -> Effects[Masks]:
    """Masks and owner maps, as `cass_core.cpu.backend.compute_masks` gives them."""
    return _in_parts(
        connection, "GenerateMask", inputs, mask_request, answers.masks, split_masks, join_masks
    )


def request_losses(connection: Connection, inputs: LossInputs) -> Effects[HostLoss]:
    """Loss, sum, normaliser and gradient, as `cass_core.cpu.backend.compute_losses` gives them."""

    def join(parts: Sequence[HostLoss]) -> HostLoss:
        return join_losses(inputs, parts)

    return _in_parts(
        connection, "ComputeLoss", inputs, loss_request, answers.loss, split_losses, join
    )


def request_info(
    connection: Connection, timeout: float | None = None
) -> Effects[pb.GetServerInfoResponse]:
    """Version, device, limits and features; limits and features are remembered."""
    attempts = Attempts(connection.timeout if timeout is None else timeout)
    message: bytes = yield from _call(connection, "GetServerInfo", b"", attempts)
    answer = answers.read(answers.info, message, None, connection.target)
    connection.limits, connection.features = answer.limits, frozenset(answer.features)
    return answer


def _require(
    connection: Connection, inputs: MaskInputs | LossInputs, attempts: Attempts
) -> Effects[None]:
    """Raise an error if the server does not know all that a request needs.

    It would pass over what it does not know, and its answer be wrong.
    """
    needed = features_of(inputs)
    if not needed or (connection.features is not None and needed <= connection.features):
        return
    info = yield from request_info(connection, attempts.left())
    missing = needed.difference(info.features)
    if missing:
        version = info.version or "an old one"
        raise ServerError(
            f"{connection.target}: the server (version {version}) does not know "
            f"{', '.join(sorted(missing))}, which the request needs: a newer server does"
        )


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
    answers.read(answers.masks, message, inputs, connection.target)
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


def _in_parts(
    connection: Connection,
    method: str,
    inputs: I,
    encode: Callable[[I], bytes],
    decode: Callable[[bytes, I], A],
    split: Callable[[I, pb.Limits], list[I]],
    join: Callable[[Sequence[A]], A],
) -> Effects[A]:
    """Requests the whole, or its parts if the server is known to take no more."""
    attempts = Attempts(connection.timeout)
    yield from _require(connection, inputs, attempts)
    parts = [inputs] if connection.limits is None else split(inputs, connection.limits)
    while True:
        found = []
        try:
            for part in parts:
                message: bytes = yield from _call(connection, method, encode(part), attempts)
                found.append(answers.read(decode, message, part, connection.target))
        except (InvalidRequest, ServerError) as error:
            if not isinstance(error.__cause__, grpc.RpcError):
                raise  # the answer does not fit, whatever its size
            # Perhaps it is too large: only the server knows.
            yield from _learn_limits(connection, attempts)
            finer = parts if connection.limits is None else split(inputs, connection.limits)
            if len(finer) <= len(parts):
                raise
            parts = finer
        else:
            return found[0] if len(found) == 1 else join(found)


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
                explain = partial(connection.explain, unavailable, attempts.left())
                raise (yield Compute(explain)) from status
            yield Sleep(delay)
