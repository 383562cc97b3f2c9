"""Callers of several kinds for `benchmarks.load.soak`; each knows the answer to expect."""

from __future__ import annotations

import asyncio
import random
import socket
import struct
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import grpc
import numpy as np

from benchmarks.common.workload import (
    CHANNEL_OPTIONS,
    GENERATE_MASK,
    IMAGE_SIZE,
    SERVICE,
    SPEC,
    STREAM_MASKS,
)
from cass.codec.encode import loss_request, mask_request
from cass.v1 import cass_pb2 as pb
from cass_core import LossSpec
from cass_core.cpu.backend import compute_losses, compute_masks
from cass_core.inputs import LossInputs, MaskInputs
from cass_core.synthetic import street_boxes

# Images, boxes per image, feature map, and whether owners are requested. The last is computed in
# a thread.
SIZES = (
    (1, 5, (23, 40), True),
    (16, 15, (23, 40), False),
    (4, 30, (92, 160), True),
    (16, 30, (92, 160), False),
    (64, 60, (92, 160), False),
)
DTYPES = ("float32", "float16", "uint8")
# Written ahead of reading on a stream, and read before the stream ends.
AHEAD, ENTRIES = 4, 50
_DEADLINE_SECONDS = 60.0
_MOST_FAULTS = 20


@dataclass(frozen=True, slots=True)
class Expectation:
    """A serialized request, and whether an answer to it is right."""

    request: bytes
    is_right: Callable[[bytes], bool]


@dataclass(slots=True)
class Seen:
    """How often each kind of caller saw what, and the first faults in words."""

    outcomes: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)

    def fault(self, kind: str, text: str) -> None:
        """Count what must not be."""
        self.outcomes[f"{kind}: FAULT"] += 1
        if len(self.faults) < _MOST_FAULTS:
            self.faults.append(f"{kind}: {text}")


def mask_inputs(
    images: int, boxes: int, feature_map: tuple[int, int], owners: bool, dtype: str
) -> MaskInputs:
    """Checked arguments of one size and dtype."""
    arrays = street_boxes(images, boxes, image_size=IMAGE_SIZE)
    return MaskInputs.check(arrays, IMAGE_SIZE, feature_map, SPEC, dtype, owners)


def expected_masks(inputs: MaskInputs) -> Expectation:
    """Masks, computed here."""
    masks, owners = compute_masks(inputs)
    expected = [array.tobytes() for array in (*masks, *owners)]

    def is_right(data: bytes) -> bool:
        answer = pb.GenerateMaskResponse.FromString(data)
        return [tensor.data for tensor in (*answer.masks, *answer.owners)] == expected

    return Expectation(mask_request(inputs), is_right)


def expected_loss(images: int) -> Expectation:
    """A loss against masks, computed here; a message of 16 images is read in a thread."""
    feature_map = (92, 160)
    logits = np.random.default_rng(0).normal(-2, 2, (images, *feature_map)).astype(np.float32)
    mask = mask_inputs(images, 15, feature_map, False, "float32")
    inputs = LossInputs.check(logits, None, LossSpec(), None, True, mask)
    result = compute_losses(inputs)
    assert result.grad is not None
    expected = (result.loss.tobytes(), result.total, result.grad.tobytes())

    def is_right(data: bytes) -> bool:
        answer = pb.ComputeLossResponse.FromString(data)
        return (answer.loss.data, answer.sum, answer.grad.data) == expected

    return Expectation(loss_request(inputs), is_right)


class Callers:
    """All kinds at once.

    Args:
        address: of the server.
        seen: what they add to.
    """

    def __init__(self, address: str, seen: Seen) -> None:
        self._address, self._seen, self._random = address, seen, random.Random(0)
        self._masks = [expected_masks(mask_inputs(*s, d)) for s, d in product(SIZES, DTYPES)]
        self._losses = [expected_loss(images) for images in (2, 16)]

    async def run(self, seconds: float) -> None:
        """Call for that long, and wait for the last answers."""
        end = time.monotonic() + seconds
        kinds: list[Callable[[grpc.aio.Channel], Awaitable[None]]]
        kinds = [self._mask, self._mask, self._loss, self._stream]
        kinds += [self._bad, self._cancelled, self._late]
        channels = [grpc.aio.insecure_channel(self._address, CHANNEL_OPTIONS) for _ in kinds]

        async def repeat(kind: Callable[..., Awaitable[None]], channel: grpc.aio.Channel) -> None:
            while time.monotonic() < end:
                await kind(channel)
                # Between full load and none.
                await asyncio.sleep(self._random.choice((0, 0, 0, 0.01)))

        try:
            repeated = map(repeat, kinds, channels)
            await asyncio.gather(*repeated, self._newcomers(end), self._vanishing(end))
        finally:
            await asyncio.gather(*(channel.close() for channel in channels))

    async def _call(
        self,
        channel: grpc.aio.Channel,
        kind: str,
        one: Expectation,
        *,
        method: str = "GenerateMask",
        code: str = "",
        timeout: float = _DEADLINE_SECONDS,
    ) -> None:
        """A unary call that is to have the right answer, or to end with a status."""
        call: Any = channel.unary_unary(f"/{SERVICE}/{method}")
        try:
            data = await call(one.request, timeout=timeout)
        except grpc.aio.AioRpcError as error:
            if error.code().name == code:
                self._seen.outcomes[f"{kind}: {code}"] += 1
            elif error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED:  # a full server may refuse
                self._seen.outcomes[f"{kind}: refused"] += 1
                await asyncio.sleep(0.05)
            else:
                self._seen.fault(kind, f"{error.code().name}: {error.details()}")
            return
        if one.is_right(data):
            self._seen.outcomes[f"{kind}: right"] += 1
        else:
            self._seen.fault(kind, "wrong answer")

    async def _mask(self, channel: grpc.aio.Channel, kind: str = "mask") -> None:
        await self._call(channel, kind, self._random.choice(self._masks))

    async def _loss(self, channel: grpc.aio.Channel) -> None:
        await self._call(channel, "loss", self._random.choice(self._losses), method="ComputeLoss")

    async def _stream(self, channel: grpc.aio.Channel) -> None:
        call: Any = channel.stream_stream(STREAM_MASKS)(timeout=_DEADLINE_SECONDS)
        chosen = [self._random.choice(self._masks) for _ in range(ENTRIES)]

        async def write(one: Expectation) -> None:
            request = pb.GenerateMaskRequest.FromString(one.request)
            await call.write(pb.StreamMasksRequest(request=request).SerializeToString())

        try:
            for one in chosen[:AHEAD]:
                await write(one)
            for index, one in enumerate(chosen):
                entry = pb.StreamMasksResponse.FromString(await call.read())
                if not one.is_right(entry.masks.SerializeToString()):
                    self._seen.fault("stream", f"wrong entry {entry.error}")
                    return
                self._seen.outcomes["stream: right"] += 1
                if index + AHEAD < ENTRIES:
                    await write(chosen[index + AHEAD])
            await call.done_writing()
            if await call.read() is not grpc.aio.EOF:
                self._seen.fault("stream", "an entry too many")
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError) as error:
            self._seen.fault("stream", str(error))

    async def _bad(self, channel: grpc.aio.Channel) -> None:
        """No message at all, or one with a wrong field: never answered."""
        request = pb.GenerateMaskRequest.FromString(self._masks[0].request)
        request.mask_spec.patch_size = 0
        data = self._random.choice((b"\xff", request.SerializeToString()))
        bad = Expectation(data, lambda _: False)
        await self._call(channel, "bad", bad, code="INVALID_ARGUMENT")
        await asyncio.sleep(0.01)

    async def _late(self, channel: grpc.aio.Channel) -> None:
        """A deadline in which a large answer is hardly ever there."""
        timeout = self._random.choice((0.0005, 0.002, 0.01))
        late = "DEADLINE_EXCEEDED"
        await self._call(channel, "late", self._masks[-1], code=late, timeout=timeout)
        await asyncio.sleep(0.05)

    async def _cancelled(self, channel: grpc.aio.Channel) -> None:
        method: Any = channel.unary_unary(GENERATE_MASK)
        call = method(self._masks[-1].request)
        await asyncio.sleep(self._random.random() * 0.02)
        call.cancel()
        self._seen.outcomes["cancelled"] += 1
        await asyncio.sleep(0.05)

    async def _newcomers(self, end: float) -> None:
        """A connection of its own for each call."""
        while time.monotonic() < end:
            async with grpc.aio.insecure_channel(self._address, CHANNEL_OPTIONS) as channel:
                await self._mask(channel, "newcomer")
            await asyncio.sleep(0.05)

    async def _vanishing(self, end: float) -> None:
        """Connections that end in the middle of a frame, by a reset."""
        host, _, port = self._address.rpartition(":")
        preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + struct.pack(">IBI", 0x4, 0, 0)[1:]
        while time.monotonic() < end:
            await asyncio.sleep(0.05)
            try:
                _, writer = await asyncio.open_connection(host, int(port))
                writer.write(preface + bytes(self._random.randrange(9)))
                await writer.drain()
            except OSError as error:
                self._seen.fault("vanished", str(error))
                continue
            linger = struct.pack("ii", 1, 0)
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            writer.close()
            self._seen.outcomes["vanished"] += 1
