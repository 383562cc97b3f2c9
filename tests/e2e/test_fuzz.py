"""Thousands of mutated requests, and then a good one."""

from __future__ import annotations

import random
import struct
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest

from cass.v1 import cass_pb2 as pb
from cass_client import CassClient, MaskSpec
from cass_core import generate_mask
from tests.support.compare import same
from tests.support.servers import ServerProcess

NUMBERS = [0, 1, 2, 3, 7, 255, 2**16, 2**31 - 1, 2**31, 2**32 - 1]
FLOATS = [0.0, -0.0, 1.0, -1.0, 0.5, 1e-45, 1e38, -1e38, float("inf"), float("nan"), 1e308]


def good_mask() -> pb.GenerateMaskRequest:
    return pb.GenerateMaskRequest(
        boxes=pb.BoxBatch(xyxy=struct.pack("<8f", 1, 2, 9, 30, 0, 0, 31, 31), counts=[1, 0, 1]),
        image_sizes=pb.ImageSizes(heights=[32], widths=[48]),
        feature_maps=[pb.FeatureMap(height=4, width=6), pb.FeatureMap(height=2, width=3)],
        mask_spec=pb.MaskSpec(
            patch_size=1, min_size=0.5, base_sigma=[0.5, 0.4], min_radius=1, merge=pb.MERGE_MAX
        ),
        dtype=pb.DATA_TYPE_FLOAT16,
    )


def good_loss(from_boxes: bool) -> pb.ComputeLossRequest:
    shape = [3, 4, 6]
    request = pb.ComputeLossRequest(
        logits=pb.Tensor(dtype=pb.DATA_TYPE_FLOAT32, shape=shape, data=bytes(288)),
        loss_spec=pb.LossSpec(kind=pb.LOSS_KIND_VARIFOCAL, alpha=2, gamma=1.5),
        num_boxes=2,
        return_grad=True,
    )
    if from_boxes:
        request.mask.CopyFrom(good_mask())
        request.mask.dtype = pb.DATA_TYPE_UNSPECIFIED
        del request.mask.feature_maps[1:]
    else:
        request.target.CopyFrom(pb.Tensor(dtype=pb.DATA_TYPE_UINT8, shape=[3, 24], data=bytes(72)))
    return request


def mutate_message(message: Any, rng: random.Random) -> None:
    """Change one field somewhere in a message."""
    field = rng.choice(message.DESCRIPTOR.fields)
    value = getattr(message, field.name)
    if field.message_type is not None:
        repeated = not hasattr(value, "DESCRIPTOR")
        if repeated:
            if len(value) and rng.random() < 0.7:
                mutate_message(rng.choice(value), rng)
            else:
                value.add()
        elif rng.random() < 0.9:
            mutate_message(value, rng)
        else:
            message.ClearField(field.name)
    elif field.type == field.TYPE_BYTES:
        setattr(message, field.name, mutate_bytes(value, rng))
    elif field.type == field.TYPE_STRING:
        setattr(message, field.name, "x")
    else:
        pool: dict[int, list[Any]] = {
            field.TYPE_DOUBLE: FLOATS,
            field.TYPE_BOOL: [True, False],
            field.TYPE_ENUM: [*range(8), -1, 2**31 - 1],
        }
        values = pool.get(field.type, NUMBERS)
        if hasattr(value, "append"):
            drawn = [rng.choice(values) for _ in range(rng.randrange(5))]
            del value[:]
            value.extend(drawn)
        else:
            setattr(message, field.name, rng.choice(values))


def mutate_bytes(data: bytes, rng: random.Random) -> bytes:
    """Flip, cut, repeat or overwrite a piece."""
    out = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(out) + 1)
        choice = rng.randrange(4)
        if choice == 0 and at < len(out):
            out[at] ^= 1 << rng.randrange(8)
        elif choice == 1:
            del out[at : at + rng.randint(1, 8)]
        elif choice == 2:
            out[at:at] = out[max(0, at - 8) : at] or b"\x00"
        else:
            out[at : at + 4] = struct.pack("<f", rng.choice([v for v in FLOATS if v < 1e39]))
    return bytes(out)


GOOD = (
    ("GenerateMask", good_mask()),
    ("ComputeLoss", good_loss(from_boxes=True)),
    ("ComputeLoss", good_loss(from_boxes=False)),
)


def mutated(seed: int) -> tuple[str, bytes]:
    """Method and bytes of a request; each seed always gives the same."""
    rng = random.Random(seed)
    method, good = GOOD[rng.choice((0, 0, 1, 2))]
    if seed % 2 == 0:
        return method, mutate_bytes(good.SerializeToString(), rng)
    message = type(good).FromString(good.SerializeToString())
    for _ in range(rng.randint(1, 3)):
        mutate_message(message, rng)
    return method, message.SerializeToString()


@pytest.mark.parametrize("number", [1_000, pytest.param(10_000, marks=pytest.mark.slow)])
def test_mutated_requests(server: ServerProcess, remote: CassClient, number: int) -> None:
    logged = len(server.lines)
    outcomes: Counter[str] = Counter()
    options = [("grpc.max_receive_message_length", -1)]  # a mutation may ask for large masks
    with grpc.insecure_channel(server.address, options) as channel, ThreadPoolExecutor(8) as pool:
        calls = {name: channel.unary_unary(f"/cass.v1.CassService/{name}") for name, _ in GOOD}
        for method, message in GOOD:  # what the mutations start from is good
            calls[method](message.SerializeToString(), timeout=60)

        def send(seed: int) -> None:
            method, data = mutated(seed)
            try:
                calls[method](data, timeout=60)
                outcome = "OK"
            except grpc.RpcError as error:
                outcome = error.code().name
                if outcome != "INVALID_ARGUMENT":
                    outcome += f", seed {seed}: {error.details()}"
            outcomes[outcome] += 1

        list(pool.map(send, range(number)))
    assert set(outcomes) == {"OK", "INVALID_ARGUMENT"}, outcomes
    assert outcomes["OK"] > number / 20
    assert outcomes["INVALID_ARGUMENT"] > number / 4
    assert server.process.poll() is None
    assert "Traceback" not in "".join(server.lines[logged:])
    arguments = [[[1.0, 2, 9, 30]], None], (32, 48), (4, 6), MaskSpec(patch_size=1)
    same(remote.generate_mask(*arguments), generate_mask(*arguments))
