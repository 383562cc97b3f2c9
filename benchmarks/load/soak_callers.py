"""Callers of several kinds for `benchmarks.load.soak`; each knows the answer to expect."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import struct
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from itertools import product
from typing import Any

import grpc
import numpy as np

from benchmarks.common.workload import GENERATE_MASK, IMAGE_SIZE, SPEC
from cass.v1 import cass_pb2 as pb
from cass_client import AsyncCassClient, CassError, MaskRequest, Timeout
from cass_core import LossResult, compute_loss, generate_mask
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
_STREAM_ENTRIES, _STREAM_IN_FLIGHT = 50, 4
_DEADLINE_SECONDS = 60.0
_MOST_FAULTS = 20


class Callers:
    """All kinds of callers at once, of the server at an address.

    Attributes:
        outcomes: how often each kind of caller saw what.
        faults: what must not be, the first of them in words.
    """

    def __init__(self, address: str) -> None:
        self.outcomes: Counter[str] = Counter()
        self.faults: list[str] = []
        self._address, self._random = address, random.Random(0)
        self._masks = [_masks(*size, dtype) for size, dtype in product(SIZES, DTYPES)]
        self._losses = [_loss(images) for images in (2, 16)]

    async def run(self, seconds: float) -> None:
        """Call for that long, and wait for the last answers."""
        end = time.monotonic() + seconds
        kinds = (self._mask, self._mask, self._loss, self._stream, self._cancelled)

        async def repeat(
            kind: Callable[[AsyncCassClient], Awaitable[None]], timeout: float = _DEADLINE_SECONDS
        ) -> None:
            async with AsyncCassClient(self._address, timeout=timeout) as client:
                while time.monotonic() < end:
                    await kind(client)
                    # Between full load and none.
                    await asyncio.sleep(self._random.choice((0, 0, 0, 0.01)))

        hasty = (repeat(self._late, timeout) for timeout in (0.0005, 0.002, 0.01))
        others = (self._newcomers(end), self._malformed(end), self._vanishing(end))
        await asyncio.gather(*map(repeat, kinds), *hasty, *others)

    def _count(self, kind: str, is_right: bool, wrong: str = "wrong answer") -> None:
        self.outcomes[f"{kind}: {'right' if is_right else 'FAULT'}"] += 1
        if not is_right and len(self.faults) < _MOST_FAULTS:
            self.faults.append(f"{kind}: {wrong}")

    async def _check(self, kind: str, call: Awaitable[Any], expected: Any) -> None:
        try:
            self._count(kind, _equal(await call, expected))
        except CassError as error:
            self._count(kind, False, repr(error))

    async def _mask(self, client: AsyncCassClient, kind: str = "mask") -> None:
        request, expected = self._random.choice(self._masks)
        await self._check(kind, _ask(client, request), expected)

    async def _loss(self, client: AsyncCassClient) -> None:
        arguments, expected = self._random.choice(self._losses)
        await self._check("loss", client.compute_loss(**arguments), expected)

    async def _stream(self, client: AsyncCassClient) -> None:
        chosen = [self._random.choice(self._masks) for _ in range(_STREAM_ENTRIES)]
        answers = client.stream_masks((request for request, _ in chosen), _STREAM_IN_FLIGHT)
        for _, expected in chosen:
            await self._check("stream", anext(answers), expected)
        self._count("stream end", await anext(answers, None) is None, "an entry too many")

    async def _late(self, hasty: AsyncCassClient) -> None:
        """Calls with a deadline within which a large answer is hardly ever there."""
        request, expected = self._masks[-1]
        try:
            self._count("late, answered", _equal(await _ask(hasty, request), expected))
        except Timeout:
            self._count("late, timed out", True)
        await asyncio.sleep(0.05)

    async def _cancelled(self, client: AsyncCassClient) -> None:
        call = asyncio.ensure_future(_ask(client, self._masks[-1][0]))
        await asyncio.sleep(self._random.random() * 0.02)
        call.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await call
        self._count("cancelled", True)
        await asyncio.sleep(0.05)

    async def _newcomers(self, end: float) -> None:
        """Opens a connection of its own for each call."""
        while time.monotonic() < end:
            async with AsyncCassClient(self._address, timeout=_DEADLINE_SECONDS) as client:
                await self._mask(client, "newcomer")
            await asyncio.sleep(0.05)

    async def _malformed(self, end: float) -> None:
        """Sends bytes that are no message, or one without its fields: refused, never answered."""
        empty = pb.GenerateMaskRequest().SerializeToString()
        async with grpc.aio.insecure_channel(self._address) as channel:
            call: Any = channel.unary_unary(GENERATE_MASK)
            while time.monotonic() < end:
                try:
                    await call(self._random.choice((b"\xff", empty)), timeout=_DEADLINE_SECONDS)
                    self._count("malformed", False, "answered")
                except grpc.aio.AioRpcError as error:
                    # A full server may refuse it before it is read.
                    refused = error.code().name in ("INVALID_ARGUMENT", "RESOURCE_EXHAUSTED")
                    self._count("malformed", refused, f"{error.code().name}: {error.details()}")
                await asyncio.sleep(0.01)

    async def _vanishing(self, end: float) -> None:
        """Ends connections in the middle of a frame, by a reset."""
        host, _, port = self._address.rpartition(":")
        preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + struct.pack(">IBI", 0x4, 0, 0)[1:]
        while time.monotonic() < end:
            await asyncio.sleep(0.05)
            try:
                _, writer = await asyncio.open_connection(host, int(port))
                writer.write(preface + bytes(self._random.randrange(9)))
                await writer.drain()
            except OSError as error:
                self._count("vanished", False, str(error))
                continue
            linger = struct.pack("ii", 1, 0)
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            writer.close()
            self._count("vanished", True)


def _masks(
    images: int, boxes: int, feature_map: tuple[int, int], owners: bool, dtype: str
) -> tuple[MaskRequest, Any]:
    """A request and its answer, computed here."""
    arrays = street_boxes(images, boxes, image_size=IMAGE_SIZE)
    sizes = (IMAGE_SIZE, feature_map, SPEC)
    expected = generate_mask(arrays, *sizes, dtype=dtype, return_owner=owners)
    return MaskRequest(arrays, *sizes, dtype, owners), expected


def _loss(images: int) -> tuple[dict[str, Any], LossResult]:
    """The arguments of a loss against masks, and its answer, computed here."""
    feature_map = (92, 160)
    logits = np.random.default_rng(0).normal(-2, 2, (images, *feature_map)).astype(np.float32)
    boxes = street_boxes(images, 15, image_size=IMAGE_SIZE)
    target = generate_mask(boxes, IMAGE_SIZE, feature_map, SPEC)
    source = {"boxes": boxes, "image_size": IMAGE_SIZE, "feature_map": feature_map}
    arguments = {"logits": logits, **source, "mask_spec": SPEC, "return_grad": True}
    return arguments, compute_loss(logits, target, return_grad=True)


def _ask(client: AsyncCassClient, request: MaskRequest) -> Awaitable[Any]:
    return client.generate_mask(
        request.boxes, request.image_size, request.feature_map, request.spec,
        dtype=request.dtype, return_owner=request.return_owner,
    )  # fmt: skip


def _equal(answer: Any, expected: Any) -> bool:
    """Whether masks, masks with owners, or losses and gradients are the same, bit by bit."""
    if isinstance(answer, LossResult):
        pairs = [(answer.loss, expected.loss), (answer.sum, expected.sum)]
        pairs.append((answer.grad, expected.grad))
    else:
        both = (one if isinstance(one, tuple) else (one,) for one in (answer, expected))
        pairs = list(zip(*both, strict=True))
    return all(np.asarray(a).tobytes() == np.asarray(b).tobytes() for a, b in pairs)
