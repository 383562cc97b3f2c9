"""Asks a server: one checked request becomes as many calls and tries as it takes."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TypeVar

import grpc
from google.protobuf.message import DecodeError, Message

from cass import wire
from cass.frames import loss_request
from cass.lift import Views, lift
from cass.v1 import cass_pb2 as pb
from cass_client.errors import (
    ServerError,
    Timeout,
    Unauthenticated,
    Unavailable,
    Unlisted,
    from_rpc_error,
)
from cass_client.forking import REMEDIES
from cass_client.peer import PeerBase
from cass_client.profile import TIMINGS_KEY, CallProfile, server_timings
from cass_client.retrying import Attempts
from cass_client.splitting import join_losses, join_masks, split_losses, split_masks
from cass_client.steps import Received, Send, Sleep, Steps
from cass_core.arrays import Array
from cass_core.errors import CassError, InvalidRequest
from cass_core.loss_inputs import LossInputs
from cass_core.losses import HostLoss
from cass_core.masks import MaskInputs

M = TypeVar("M", bound=Message)
I = TypeVar("I")  # noqa: E741 - inputs
A = TypeVar("A")


def ask_masks(peer: PeerBase, inputs: MaskInputs) -> Steps[tuple[list[Array], list[Array]]]:
    """Masks and owner maps, as `cass_core.masks.compute_masks` gives them."""

    def one(part: MaskInputs, attempts: Attempts) -> Steps[tuple[list[Array], list[Array]]]:
        request = wire.mask_request_bytes(part)
        received = yield from _call(peer, "GenerateMask", request, attempts)
        answer, views = read(received.message, pb.GenerateMaskResponse, peer)
        return wire.masks_and_owners(answer, views)

    return (yield from _in_parts(peer, inputs, one, split_masks, join_masks))


def ask_losses(peer: PeerBase, inputs: LossInputs) -> Steps[HostLoss]:
    """Loss, sum, normaliser and gradient, as `cass_core.losses.compute_losses` gives them."""

    def one(part: LossInputs, attempts: Attempts) -> Steps[HostLoss]:
        received = yield from _call(peer, "ComputeLoss", loss_request(part), attempts)
        answer, views = read(received.message, pb.ComputeLossResponse, peer)
        return wire.loss_result(answer, views)

    def join(answers: Sequence[HostLoss]) -> HostLoss:
        return join_losses(inputs, answers)

    return (yield from _in_parts(peer, inputs, one, split_losses, join))


def ask_info(peer: PeerBase, timeout: float | None = None) -> Steps[pb.GetServerInfoResponse]:
    """Version, device and limits; the limits are remembered."""
    attempts = Attempts(peer.timeout if timeout is None else timeout)
    received = yield from _call(peer, "GetServerInfo", b"", attempts)
    answer, _ = read(received.message, pb.GetServerInfoResponse, peer)
    peer.limits = answer.limits
    return answer


def ask_profile(peer: PeerBase, check: Callable[[], MaskInputs]) -> Steps[CallProfile]:
    """Where the time of a call goes; ``check`` makes its inputs, which counts as packing."""
    started = time.perf_counter()
    request = wire.mask_request_bytes(check())
    packed = time.perf_counter()
    metadata = ((TIMINGS_KEY, "1"),)
    attempts = Attempts(peer.timeout)
    received = yield from _call(peer, "GenerateMask", request, attempts, metadata)
    answered = time.perf_counter()
    wire.masks_and_owners(*read(received.message, pb.GenerateMaskResponse, peer))
    done = time.perf_counter()
    queue, compute, encode = server_timings(received.trailing_metadata)
    return CallProfile(
        total=done - started,
        pack=packed - started,
        wait=answered - packed - queue - compute - encode,
        queue=queue,
        compute=compute,
        encode=encode,
        unpack=done - answered,
    )


def read(message: bytes, kind: type[M], peer: PeerBase) -> tuple[M, Views]:
    """An answer, its tensors apart.

    Raises:
        ServerError: it is no such message.
    """
    try:
        return lift(message, kind)
    except DecodeError as error:
        name = kind.DESCRIPTOR.full_name
        raise ServerError(f"{peer.target}: the answer is not a {name}") from error


def _in_parts(
    peer: PeerBase,
    inputs: I,
    one: Callable[[I, Attempts], Steps[A]],
    split: Callable[[I, pb.Limits], list[I]],
    join: Callable[[Sequence[A]], A],
) -> Steps[A]:
    """Ask for the whole, or for its parts if the server is known to take no more."""
    attempts = Attempts(peer.timeout)
    parts = [inputs] if peer.limits is None else split(inputs, peer.limits)
    while True:
        answers = []
        try:
            for part in parts:
                answer = yield from one(part, attempts)
                answers.append(answer)
        except (InvalidRequest, ServerError):
            # Perhaps it is too large: only the server can tell.
            yield from _learn_limits(peer, attempts)
            finer = parts if peer.limits is None else split(inputs, peer.limits)
            if len(finer) <= len(parts):
                raise
            parts = finer
        else:
            return answers[0] if len(answers) == 1 else join(answers)


def _learn_limits(peer: PeerBase, attempts: Attempts) -> Steps[None]:
    try:
        yield from ask_info(peer, attempts.left())
    except CassError:
        return  # what was asked for first is what the caller is told of


def _call(
    peer: PeerBase,
    method: str,
    request: bytes,
    attempts: Attempts,
    metadata: tuple[tuple[str, str], ...] = (),
) -> Steps[Received]:
    """One answer, after as many tries as there is time for."""
    while True:
        if peer.is_cut_off:
            raise Unavailable(f"{peer.target}: {REMEDIES}")
        started = time.monotonic()
        try:
            received: Received = yield Send(method, request, attempts.timeout(), metadata)
        except Unlisted as unlisted:
            yield Sleep(attempts.delay_after(unlisted))
        except grpc.RpcError as status:
            error = from_rpc_error(status, peer.target)
            error.__cause__ = status
            if isinstance(error, Unauthenticated | Unavailable) and peer.renew(started):
                continue
            if isinstance(error, Timeout):
                peer.leave(started)
            if isinstance(error, Unavailable):
                peer.look_up_again(started)
            yield Sleep(attempts.delay_after(error))
        else:
            return received
