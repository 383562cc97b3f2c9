"""Answers computed in place: what protobuf reads of them, on each of its implementations."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cass.frames import loss_frame, mask_frame
from cass.v1 import cass_pb2 as pb
from cass_core import LossSpec, MaskSpec
from cass_core.loss_inputs import LossInputs
from cass_core.losses import HostLoss
from cass_core.masks import MaskInputs

BOX = np.array([[1, 2, 3, 4.5]], np.float32)
MASK_DTYPES = {
    "float32": (pb.DATA_TYPE_FLOAT32, np.float32),
    "float16": (pb.DATA_TYPE_FLOAT16, np.float16),
    "uint8": (pb.DATA_TYPE_UINT8, np.uint8),
}


def inputs_of(
    images: int, maps: list[tuple[int, int]], dtype: str = "float32", owner: bool = False
) -> MaskInputs:
    return MaskInputs.check([BOX] * images, (8, 8), maps, MaskSpec(patch_size=1), dtype, owner)


@given(
    images=st.integers(0, 5),
    maps=st.lists(st.tuples(st.integers(1, 40), st.integers(1, 300)), min_size=1, max_size=5),
    dtype=st.sampled_from(sorted(MASK_DTYPES)),
    owner=st.booleans(),
    entry=st.booleans(),
)
def test_what_is_filled_in_is_what_is_read(
    images: int, maps: list[tuple[int, int]], dtype: str, owner: bool, entry: bool
) -> None:
    number, element = MASK_DTYPES[dtype]
    frame = mask_frame(inputs_of(images, maps, dtype, owner), entry=entry)
    random = np.random.default_rng(0)
    for array in (*frame.masks, *frame.owners):
        assert array.ctypes.data % array.itemsize == 0
        array[...] = random.integers(0, 100, array.shape)
    if entry:
        response = pb.StreamMasksResponse.FromString(frame.message).masks
    else:
        response = pb.GenerateMaskResponse.FromString(frame.message)
    random = np.random.default_rng(0)
    tensors = [*response.masks, *response.owners]
    assert len(response.masks) == len(maps)
    assert len(response.owners) == (len(maps) if owner else 0)
    dtypes = [(number, element)] * len(maps) + [(pb.DATA_TYPE_INT32, np.int32)] * len(maps)
    for tensor, (height, width), (code, kind) in zip(tensors, maps * 2, dtypes, strict=False):
        shape = (images, height, width)
        assert (tensor.dtype, tuple(tensor.shape)) == (code, shape)
        assert tensor.data == random.integers(0, 100, shape).astype(kind).tobytes()


@pytest.mark.parametrize(
    ("dtype", "reduction", "grad"),
    list(product(("float32", "float64", "float16"), ("mean", "none"), (False, True))),
)
def test_a_loss_is_read_as_it_was_set(dtype: str, reduction: Any, grad: bool) -> None:
    logits = np.zeros((2, 3, 5), dtype)
    inputs = LossInputs.check(logits, logits, LossSpec(reduction=reduction), None, grad)
    frame = loss_frame(inputs)
    real = np.float64 if dtype == "float64" else np.float32
    if reduction == "none":
        frame.loss[...] = np.arange(30).reshape(2, 3, 5)
        loss = frame.loss
    else:
        loss = np.asarray(7.5, real)
    if frame.grad is not None:
        frame.grad[...] = np.arange(30).reshape(2, 3, 5) / 4
    response = pb.ComputeLossResponse.FromString(
        frame.finish(HostLoss(loss, 3.25, 2.0, frame.grad))
    )
    assert (response.sum, response.normalizer) == (3.25, 2.0)
    values = np.frombuffer(response.loss.data, real)
    assert values.tolist() == (list(range(30)) if reduction == "none" else [7.5])
    assert list(response.loss.shape) == ([2, 3, 5] if reduction == "none" else [])
    assert response.HasField("grad") == grad
    if grad:
        assert np.frombuffer(response.grad.data, dtype).tolist() == [i / 4 for i in range(30)]
        assert list(response.grad.shape) == [2, 3, 5]


def test_arrays_keep_their_message() -> None:
    """Whoever still computes into them after the caller has gone writes to nobody else's memory."""
    (array,) = mask_frame(inputs_of(4, [(100, 100)])).masks
    array[...] = 1
    gc.collect()
    others = [bytes(array.nbytes) for _ in range(20)]
    array[...] = 2
    assert not any(any(other) for other in others)
    assert (array == 2).all()


@pytest.mark.parametrize("implementation", ["python", "upb"])
def test_every_implementation_reads_the_padded_numbers(implementation: str) -> None:
    """A varint may be longer than it need be; the offsets of the elements call for each length."""
    maps = [(1, 1), (1, 3), (200, 1), (1, 100_000)]
    frame = mask_frame(inputs_of(3, maps, "uint8", owner=True), entry=True)
    for i, array in enumerate((*frame.masks, *frame.owners)):
        array[...] = i
    program = """
import sys
from google.protobuf.internal import api_implementation
from cass.v1 import cass_pb2 as pb
assert api_implementation.Type() == sys.argv[1], api_implementation.Type()
answer = pb.StreamMasksResponse.FromString(sys.stdin.buffer.read()).masks
for tensor in (*answer.masks, *answer.owners):
    print(tensor.dtype, list(tensor.shape), len(tensor.data), tensor.data[0], max(tensor.data))
"""
    done = subprocess.run(
        [sys.executable, "-c", program, implementation],
        input=frame.message,
        capture_output=True,
        env={
            **os.environ,
            "PYTHONPATH": ":".join(sys.path),
            "PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION": implementation,
        },
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    expected = [
        f"{code} [3, {h}, {w}] {3 * h * w * size} {first} {first}"
        for code, size, offset in ((pb.DATA_TYPE_UINT8, 1, 0), (pb.DATA_TYPE_INT32, 4, 4))
        for first, (h, w) in enumerate(maps, offset)
    ]
    assert done.stdout.decode().splitlines() == expected
