"""What gRPC itself refuses, drops or breaks off: asked again by the client, which alone does it."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, BinaryIO

import grpc
import numpy as np
import pytest
import torch

from cass.v1 import cass_pb2 as pb
from cass_client import BoxBatch, CassClient, MaskRequest, MaskSpec, Overloaded, ServerError
from cass_client.transport.channel_options import channel_options
from cass_core import generate_mask
from cass_core.synthetic import street_boxes
from tests.client.support.small_servers import LIMIT, MaskService, masks_of, serving_with
from tests.server.support.raw_http2 import (
    DATA,
    END_STREAM,
    GOAWAY,
    HEADERS,
    PING,
    RST_STREAM,
    SETTINGS,
    data_frames,
    frame,
    header_frame,
    prefixed,
)

pytestmark = pytest.mark.timeout(100)

SIZE, MAP, SPEC = (96, 160), (12, 20), MaskSpec(patch_size=1)
IMAGES = 23
BOXES = street_boxes(IMAGES, 9, image_size=SIZE, seed=4)
OPENS = {":status": "200", "content-type": "application/grpc"}


def test_a_refusal_of_grpcs_own_is_waited_out() -> None:
    """It does not say when to come back."""
    entered, go = threading.Event(), threading.Event()
    go.set()

    def held(request: pb.GenerateMaskRequest, _: grpc.ServicerContext) -> Any:
        entered.set()
        assert go.wait(LIMIT)
        return masks_of(request)

    service = MaskService(held)
    with (
        serving_with(service, maximum_concurrent_rpcs=1) as address,
        CassClient(address, timeout=LIMIT) as client,
        CassClient(address, timeout=0.5) as hasty,
        ThreadPoolExecutor(2) as pool,
    ):
        expected = generate_mask(BOXES, SIZE, MAP, SPEC)
        for each in (client, hasty):  # their connections are there before it is full
            each.generate_mask(BOXES, SIZE, MAP, SPEC)
        go.clear()
        entered.clear()
        first = pool.submit(client.generate_mask, BOXES, SIZE, MAP, SPEC)
        assert entered.wait(LIMIT)
        with pytest.raises(Overloaded, match="Concurrent RPC limit exceeded") as full:
            hasty.generate_mask(BOXES, SIZE, MAP, SPEC)
        assert full.value.retry_delay == 0
        cause = full.value.__cause__
        assert isinstance(cause, grpc.RpcError)
        assert cause.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        second = pool.submit(client.generate_mask, BOXES, SIZE, MAP, SPEC)
        go.set()
        for future in (first, second):
            np.testing.assert_array_equal(future.result(LIMIT), expected)
    assert service.calls == 4


def test_a_message_that_is_too_large_is_split() -> None:
    """gRPC refuses it by the code of a lack of room."""
    service = MaskService(limits=pb.Limits(message_bytes=2000))
    options = [("grpc.max_receive_message_length", 2000)]
    with (
        serving_with(service, options=options) as address,
        CassClient(address, timeout=LIMIT) as client,
    ):
        for _ in range(2):
            found = client.generate_mask(BOXES, SIZE, MAP, SPEC)
            np.testing.assert_array_equal(found, generate_mask(BOXES, SIZE, MAP, SPEC))
    # 207 boxes of 16 bytes and more: at least two parts.
    assert service.calls >= 4


def test_a_message_that_stays_too_large_is_not_tried_again() -> None:
    service = MaskService()
    options = [("grpc.max_receive_message_length", 2000)]
    with (
        serving_with(service, options=options) as address,
        CassClient(address, timeout=10 * LIMIT) as client,
        pytest.raises(ServerError, match=r"RESOURCE_EXHAUSTED: .*larger than max \(\d+ vs. 2000\)"),
    ):
        client.generate_mask(BOXES, SIZE, MAP, SPEC)
    assert service.calls == 0


@pytest.mark.parametrize("as_tensor", [False, True])
def test_requests_of_a_stream_that_are_answered_alone(as_tensor: bool) -> None:
    """As they were when they were taken, though their arrays have been filled anew."""
    array = np.zeros((1, 4), np.float32)
    boxes = torch.from_numpy(array) if as_tensor else array
    sides = (8, 16, 24, 32, 40)

    def requests() -> Iterator[MaskRequest]:
        for side in sides:
            array[0, 2:] = side
            yield MaskRequest(BoxBatch(boxes, np.array([1])), SIZE, MAP, SPEC)

    service = MaskService()  # without streams
    with serving_with(service) as address, CassClient(address, timeout=LIMIT) as client:
        found = list(client.stream_masks(requests()))
    assert service.calls == len(sides)
    assert all(isinstance(mask, torch.Tensor) is as_tensor for mask in found)
    for side, mask in zip(sides, found, strict=True):
        np.testing.assert_array_equal(mask, generate_mask([[[0, 0, side, side]]], SIZE, MAP, SPEC))


class Drops:
    """A server that drops the first call, by GOAWAY, RST_STREAM or its connection's end.

    As gRPC's do when they stop. On bare sockets, since gRPC's own do so now and then only. Or it
    ends the stream in the middle of the answer and without trailers, as HAProxy does that has lost
    its server.

    Args:
        listener: where it listens.
        way: how.
        answer: to all other calls.
    """

    def __init__(self, listener: socket.socket, way: str, answer: bytes) -> None:
        self._listener = listener
        self._way = way
        self._answer = prefixed(answer)
        self.calls = 0

    def serve(self) -> None:
        """Serve one connection after another until a call is answered."""
        while self.calls < 2:
            connection, _ = self._listener.accept()
            connection.settimeout(LIMIT)
            with connection, connection.makefile("rb") as received:
                received.read(24)  # the preface
                connection.sendall(frame(SETTINGS))
                self._frames(connection, received)

    def _frames(self, connection: socket.socket, received: BinaryIO) -> None:
        while len(head := received.read(9)) == 9:
            payload = received.read(int.from_bytes(head[:3]))
            kind, flags, stream = head[3], head[4], int.from_bytes(head[5:])
            if kind == SETTINGS and not flags:
                connection.sendall(frame(SETTINGS, 1))
            elif kind == PING and not flags:
                connection.sendall(frame(PING, 1, 0, payload))
            elif kind == HEADERS and stream == 1:  # which watches health, and is not told
                connection.sendall(header_frame(stream, {**OPENS, "grpc-status": "12"}, end=True))
            elif kind == DATA and stream > 1 and flags & END_STREAM:
                self.calls += 1
                if self.calls > 1:
                    connection.sendall(header_frame(stream, OPENS))
                    connection.sendall(data_frames(self._answer, stream, end=False))
                    connection.sendall(header_frame(stream, {"grpc-status": "0"}, end=True))
                elif self._way == "goaway":
                    # The last stream that it takes in is the one before; no error.
                    connection.sendall(frame(GOAWAY, 0, 0, (1).to_bytes(4) + bytes(4)))
                elif self._way == "cut off":
                    connection.sendall(header_frame(stream, OPENS))
                    connection.sendall(data_frames(self._answer[:-1], stream))
                elif self._way == "reset":
                    connection.sendall(frame(RST_STREAM, 0, stream, (7).to_bytes(4)))  # refused
                else:
                    return


@pytest.mark.parametrize("way", ["goaway", "reset", "closed", "cut off"])
def test_a_call_that_is_dropped_is_asked_again(way: str) -> None:
    mask = pb.Tensor(dtype=pb.DATA_TYPE_FLOAT32, shape=[1, 2, 2], data=bytes(16))
    answer = pb.GenerateMaskResponse(masks=[mask]).SerializeToString()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(LIMIT)
        server = Drops(listener, way, answer)
        thread = threading.Thread(target=server.serve)
        thread.start()
        target = f"127.0.0.1:{listener.getsockname()[1]}"
        with CassClient(target, timeout=LIMIT) as client:
            masks = client.generate_mask([None], (8, 8), (2, 2), SPEC)
        thread.join(LIMIT)
    assert masks.tolist() == [[[0, 0], [0, 0]]]
    assert server.calls == 2


def test_grpc_itself_tries_nothing_again() -> None:
    """Else tries would multiply."""
    options = dict(channel_options())
    assert options["grpc.enable_retries"] == 0
    assert "retryPolicy" not in str(options["grpc.service_config"])
