"""Callers for `benchmarks.load.soak`: of several kinds; each knows the answer to expect."""

from __future__ import annotations

import asyncio
import random
import socket
import struct
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import grpc
import numpy as np

from cass.codec.encode import loss_request, mask_request
from cass.v1 import cass_pb2 as pb
from cass_core import LossSpec, MaskSpec
from cass_core.cpu.backend import compute_losses, compute_masks
from cass_core.inputs import LossInputs, MaskInputs
from cass_core.synthetic import street_boxes

IMAGE_SIZE = (736, 1280)
Kind = Callable[[grpc.aio.Channel], Awaitable[None]]

# Images, boxes an image, feature map, and whether owners are asked for. The last is computed in
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
_SERVICE = "/cass.v1.CassService/"
_OPTIONS = (("grpc.max_receive_message_length", -1), ("grpc.use_local_subchannel_pool", 1))
_DEADLINE_SECONDS = 60.0
# What a server that is full or shares a core with its callers may answer, beside what is right.
_FULL = grpc.StatusCode.RESOURCE_EXHAUSTED


@dataclass(frozen=True, slots=True)
class Ask:
    """A serialized request, and whether an answer to it is right."""

    request: bytes
    is_right: Callable[[bytes], bool]


@dataclass(slots=True)
class Seen:
    """What the callers saw.

    Attributes:
        outcomes: how often each kind of caller saw what.
        faults: what must not be, in words; the first few.
    """

    outcomes: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)

    def fault(self, kind: str, text: str) -> None:
        """Something that must not be."""
        self.outcomes[f"{kind}: FAULT"] += 1
        if len(self.faults) < 20:
            self.faults.append(f"{kind}: {text}")


def mask_asks() -> list[Ask]:
    """Masks of all sizes and dtypes."""
    return [_mask_ask(*size, dtype) for size in SIZES for dtype in DTYPES]


def _inputs(
    images: int, boxes: int, feature_map: tuple[int, int], owner: bool, dtype: str
) -> MaskInputs:
    arrays = street_boxes(images, boxes, image_size=IMAGE_SIZE)
    return MaskInputs.check(arrays, IMAGE_SIZE, feature_map, MaskSpec(patch_size=1), dtype, owner)


def _mask_ask(
    images: int, boxes: int, feature_map: tuple[int, int], owner: bool, dtype: str
) -> Ask:
    inputs = _inputs(images, boxes, feature_map, owner, dtype)
    masks, owners = compute_masks(inputs)
    expected = [array.tobytes() for array in (*masks, *owners)]

    def is_right(data: bytes) -> bool:
        answer = pb.GenerateMaskResponse.FromString(data)
        return [tensor.data for tensor in (*answer.masks, *answer.owners)] == expected

    return Ask(mask_request(inputs), is_right)


def loss_asks() -> list[Ask]:
    """Losses against masks of two sizes, of which one message is read in a thread."""
    return [_loss_ask(images) for images in (2, 16)]


def _loss_ask(images: int) -> Ask:
    feature_map = (92, 160)
    logits = np.random.default_rng(0).normal(-2, 2, (images, *feature_map)).astype(np.float32)
    mask = _inputs(images, 15, feature_map, False, "float32")
    inputs = LossInputs.check(logits, None, LossSpec(), None, True, mask)
    expected = compute_losses(inputs)
    assert expected.grad is not None
    numbers = (expected.loss.tobytes(), expected.total, expected.grad.tobytes())

    def is_right(data: bytes) -> bool:
        answer = pb.ComputeLossResponse.FromString(data)
        return (answer.loss.data, answer.sum, answer.grad.data) == numbers

    return Ask(loss_request(inputs), is_right)


class Callers:
    """All kinds at once, until they are told to stop.

    Args:
        address: of the server.
        seen: where they note what they saw.
    """

    def __init__(self, address: str, seen: Seen) -> None:
        self._address = address
        self._seen = seen
        self._masks = mask_asks()
        self._losses = loss_asks()
        self._chance = random.Random(0)

    async def run(self, seconds: float) -> None:
        """Call for that long, and wait for the last answers."""
        end = time.monotonic() + seconds
        kinds: list[Kind] = [
            self._mask,
            self._mask,
            self._loss,
            self._stream,
            self._bad,
            self._cancelled,
            self._late,
        ]
        channels = [grpc.aio.insecure_channel(self._address, _OPTIONS) for _ in kinds]
        try:
            pairs = zip(kinds, channels, strict=True)
            await asyncio.gather(
                *(self._repeat(kind, channel, end) for kind, channel in pairs),
                self._newcomers(end),
                self._vanishing(end),
            )
        finally:
            await asyncio.gather(*(channel.close() for channel in channels))

    async def _repeat(self, kind: Kind, channel: grpc.aio.Channel, end: float) -> None:
        while time.monotonic() < end:
            await kind(channel)
            # Between full load and none.
            await asyncio.sleep(self._chance.choice((0, 0, 0, 0.01)))

    async def _mask(self, channel: grpc.aio.Channel, kind: str = "mask") -> None:
        await self._ask(channel, kind, "GenerateMask", self._chance.choice(self._masks))

    async def _loss(self, channel: grpc.aio.Channel) -> None:
        await self._ask(channel, "loss", "ComputeLoss", self._chance.choice(self._losses))

    async def _ask(self, channel: grpc.aio.Channel, kind: str, method: str, ask: Ask) -> None:
        call: Any = channel.unary_unary(_SERVICE + method)
        try:
            data = await call(ask.request, timeout=_DEADLINE_SECONDS)
        except grpc.aio.AioRpcError as error:
            if error.code() is _FULL:
                self._seen.outcomes[f"{kind}: refused"] += 1
                await asyncio.sleep(0.05)
            else:
                self._seen.fault(kind, f"{error.code().name}: {error.details()}")
            return
        if ask.is_right(data):
            self._seen.outcomes[f"{kind}: right"] += 1
        else:
            self._seen.fault(kind, "wrong answer")

    async def _stream(self, channel: grpc.aio.Channel) -> None:
        call: Any = channel.stream_stream(f"{_SERVICE}StreamMasks")(timeout=_DEADLINE_SECONDS)
        asked = [self._chance.choice(self._masks) for _ in range(ENTRIES)]

        async def write(ask: Ask) -> None:
            request = pb.GenerateMaskRequest.FromString(ask.request)
            await call.write(pb.StreamMasksRequest(request=request).SerializeToString())

        try:
            for ask in asked[:AHEAD]:
                await write(ask)
            for index, ask in enumerate(asked):
                entry = pb.StreamMasksResponse.FromString(await call.read())
                if not ask.is_right(entry.masks.SerializeToString()):
                    self._seen.fault("stream", f"wrong entry {entry.error}")
                    return
                self._seen.outcomes["stream: right"] += 1
                if index + AHEAD < ENTRIES:
                    await write(asked[index + AHEAD])
            await call.done_writing()
            if await call.read() is not grpc.aio.EOF:
                self._seen.fault("stream", "an entry too many")
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError) as error:
            self._seen.fault("stream", str(error))

    async def _bad(self, channel: grpc.aio.Channel) -> None:
        """No message at all, or one with a field that cannot be."""
        request = pb.GenerateMaskRequest.FromString(self._masks[0].request)
        request.mask_spec.patch_size = 0
        data = self._chance.choice((b"\xff", request.SerializeToString()))
        await self._fails(channel, "bad", data, "INVALID_ARGUMENT")
        await asyncio.sleep(0.01)

    async def _late(self, channel: grpc.aio.Channel) -> None:
        """A deadline in which nothing large is answered."""
        timeout = self._chance.choice((0.0005, 0.002, 0.01))
        await self._fails(channel, "late", self._masks[-1].request, "DEADLINE_EXCEEDED", timeout)
        await asyncio.sleep(0.05)

    async def _fails(
        self,
        channel: grpc.aio.Channel,
        kind: str,
        data: bytes,
        code: str,
        timeout: float = _DEADLINE_SECONDS,
    ) -> None:
        call: Any = channel.unary_unary(f"{_SERVICE}GenerateMask")
        try:
            await call(data, timeout=timeout)
            if kind != "late":
                self._seen.fault(kind, "was answered")
        except grpc.aio.AioRpcError as error:
            if error.code().name == code:
                self._seen.outcomes[f"{kind}: {code}"] += 1
            elif error.code() is _FULL:
                self._seen.outcomes[f"{kind}: refused"] += 1
                await asyncio.sleep(0.05)
            else:
                self._seen.fault(kind, f"{error.code().name}: {error.details()}")

    async def _cancelled(self, channel: grpc.aio.Channel) -> None:
        method: Any = channel.unary_unary(f"{_SERVICE}GenerateMask")
        call = method(self._masks[-1].request)
        await asyncio.sleep(self._chance.random() * 0.02)
        call.cancel()
        self._seen.outcomes["cancelled"] += 1
        await asyncio.sleep(0.05)

    async def _newcomers(self, end: float) -> None:
        """A connection of its own for each call."""
        while time.monotonic() < end:
            async with grpc.aio.insecure_channel(self._address, _OPTIONS) as channel:
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
                writer.write(preface + bytes(self._chance.randrange(9)))
                await writer.drain()
            except OSError as error:
                self._seen.fault("vanished", str(error))
                continue
            linger = struct.pack("ii", 1, 0)
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            writer.close()
            self._seen.outcomes["vanished"] += 1
