"""Messages that are being received, or are large once they are there, stay within the memory."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from cass.codec.encode import loss_request
from cass.v1 import cass_pb2 as pb
from cass_core import LossSpec, compute_loss
from cass_core.inputs import LossInputs
from tests.hostile.support.attacks import connections, uploads
from tests.hostile.support.memory_limit import limited
from tests.hostile.support.scene import peak_memory, under_attack
from tests.server.support.processes import wait_until
from tests.server.support.raw_http2 import call, data_frames

pytestmark = pytest.mark.timeout(300)

Record = Callable[[str, Any], None]
MIB = 1 << 20
MESSAGE = 16 * MIB
# Twice 0.5 GiB and 128 MiB of requests and answers, as deployment.md has it.
LIMITS = ("--workers", "2", "--max-message-bytes", "16MiB", "--max-queue-bytes", "128MiB")
ENOUGH = 2 * (512 + 2 * 128) * MIB
METHODS = ("ComputeLoss", "GenerateMask", "GetServerInfo", "StreamMasks")


@pytest.mark.parametrize("method", METHODS)
def test_unfinished_messages(record_property: Record, method: str) -> None:
    """Of 2 GiB in all: the newest are refused, and the server is not ended."""
    attack = f"unfinished messages of {method}"
    with (
        limited(ENOUGH) as group,
        under_attack(record_property, attack, *LIMITS, program=group.program) as scene,
        uploads(scene.address, 136, method, bytes(MESSAGE - 1024), MESSAGE) as begun,
    ):
        wait_until(
            lambda: all(upload.ended or upload.sent > MESSAGE - 1024 for upload in begun),
            scene.server,
        )
        assert any(upload.ended for upload in begun)
        assert not all(upload.ended for upload in begun)
        scene.good.wait_more(100)
        assert group.peak() < ENOUGH
        assert not scene.server.records("worker died")


def test_honest_uploads_are_all_answered(record_property: Record) -> None:
    """More than fit at a time: those that are refused come again."""
    logits = np.zeros((3, 1024, 1024), np.float32)
    target = np.zeros_like(logits)
    inputs = LossInputs.check(logits, target, LossSpec(), None, return_grad=False)
    message = loss_request(inputs)[:]
    expected = np.float32(compute_loss(logits, target, LossSpec()).loss).tobytes()
    options = ("--max-message-bytes", "32MiB", "--max-queue-bytes", "96MiB")
    with under_attack(record_property, "honest uploads of 24 MiB", *options) as scene:
        answers, refused = 0, 0
        while answers < 12:
            with uploads(scene.address, 12 - answers, "ComputeLoss", bytes(message)) as begun:
                for upload in begun:
                    answer = upload.join()
                    if answer:
                        assert pb.ComputeLossResponse.FromString(answer).loss.data == expected
                        answers += 1
                    else:
                        assert upload.ended is not None
                        assert b"grpc-status\x018" in upload.ended[1]
                        refused += 1
        scene.good.wait_more(100)


def test_a_compressed_message_is_refused(record_property: Record) -> None:
    """One that is 64 MiB in 64 kB, before it is unpacked."""
    packed = gzip.compress(bytes(60 * MIB))
    data = struct.pack(">BI", 1, len(packed)) + packed
    with under_attack(record_property, "messages that inflate a thousandfold") as scene:
        before = peak_memory(scene.server.process.pid)
        with connections(scene.address, 4) as opened:
            for connection in opened:
                for stream in range(1, 33, 2):
                    opening = call("GenerateMask", stream, **{"grpc-encoding": "gzip"})
                    connection.send(opening, data_frames(data, stream))
            for connection in opened:
                refusal = connection.refusal(31)
                assert b"Compression algorithm 'gzip' is disabled" in refusal
            scene.good.wait_more(100)
        assert peak_memory(scene.server.process.pid) < before + 50 * MIB
