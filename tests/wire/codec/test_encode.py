"""Messages put together around arrays: what protobuf reads of them, on each implementation."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cass.codec.encode import loss_response, mask_layout
from cass.v1 import cass_pb2 as pb
from cass_core import LossSpec, MaskSpec
from cass_core.inputs import LossInputs, MaskInputs
from cass_core.results import HostLoss

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
def test_what_goes_in_is_what_is_read(
    images: int, maps: list[tuple[int, int]], dtype: str, owner: bool, entry: bool
) -> None:
    """By protobuf, and by the layout itself."""
    number, element = MASK_DTYPES[dtype]
    layout = mask_layout(inputs_of(images, maps, dtype, owner), entry=entry)
    masks, owners, _ = layout.arrays()
    random = np.random.default_rng(0)
    for array in (*masks, *owners):
        array[...] = random.integers(0, 100, array.shape)
    message = layout.message(masks, owners)
    if entry:
        response = pb.StreamMasksResponse.FromString(message).masks
    else:
        response = pb.GenerateMaskResponse.FromString(message)
    random = np.random.default_rng(0)
    tensors = [*response.masks, *response.owners]
    read = layout.read(message)
    assert read is not None
    assert len(response.masks) == len(read[0]) == len(maps)
    assert len(response.owners) == len(read[1]) == (len(maps) if owner else 0)
    dtypes = [(number, element)] * len(maps) + [(pb.DATA_TYPE_INT32, np.int32)] * len(maps)
    for tensor, array, (height, width), (code, kind) in zip(
        tensors, [*read[0], *read[1]], maps * 2, dtypes, strict=False
    ):
        shape = (images, height, width)
        expected = random.integers(0, 100, shape).astype(kind)
        assert (tensor.dtype, tuple(tensor.shape)) == (code, shape)
        assert tensor.data == expected.tobytes()
        assert (array.dtype, array.shape) == (kind, shape)
        assert array.tobytes() == expected.tobytes()
        assert array.flags.writeable  # a copy, which is the caller's


def test_elements_are_aligned() -> None:
    """So that readers need not move them: the bytes of an array are at a multiple of eight."""
    layout = mask_layout(inputs_of(1, [(1, 1), (1, 3), (7, 5)], owner=True))
    masks, owners, _ = layout.arrays()
    for i, array in enumerate((*masks, *owners)):
        array[...] = 1000 + i
    message = layout.message(masks, owners)
    for array in (*masks, *owners):
        assert message.count(array.tobytes()) == 1
        assert message.index(array.tobytes()) % 8 == 0


@pytest.mark.parametrize("entry", [False, True])
def test_an_answer_that_lies_in_another_way_is_not_read(entry: bool) -> None:
    """Such as one of another server, which protobuf may have laid out; then it is for protobuf."""
    layout = mask_layout(inputs_of(2, [(3, 5)], owner=True), entry=entry)
    masks, owners, _ = layout.arrays()
    for array in (*masks, *owners):
        array[...] = 1
    message = layout.message(masks, owners)
    kind = pb.StreamMasksResponse if entry else pb.GenerateMaskResponse
    others = [
        kind.FromString(message).SerializeToString(),
        mask_layout(inputs_of(2, [(3, 5)], owner=True), entry=not entry).message(masks, owners),
        mask_layout(inputs_of(2, [(5, 3)], owner=True), entry=entry).message(
            *mask_layout(inputs_of(2, [(5, 3)], owner=True)).arrays()
        ),
        message[:-1],
        message + b"\0",
        b"",
    ]
    if entry:
        others.append(pb.StreamMasksResponse(error=pb.Error(code=3)).SerializeToString())
    assert [layout.read(other) for other in others] == [None] * len(others)


@pytest.mark.parametrize(
    ("dtype", "reduction", "grad"),
    list(product(("float32", "float64", "float16"), ("mean", "none"), (False, True))),
)
def test_a_loss_is_read_as_it_was_set(dtype: str, reduction: Any, grad: bool) -> None:
    logits = np.zeros((2, 3, 5), dtype)
    inputs = LossInputs.check(logits, logits, LossSpec(reduction=reduction), None, grad)
    real = np.float64 if dtype == "float64" else np.float32
    if reduction == "none":
        loss = np.arange(30, dtype=real).reshape(2, 3, 5)
    else:
        loss = np.asarray(7.5, real)
    gradient = (np.arange(30).reshape(2, 3, 5) / 4).astype(dtype) if grad else None
    message = loss_response(inputs, HostLoss(loss, 3.25, 2.0, gradient))
    response = pb.ComputeLossResponse.FromString(message)
    assert (response.sum, response.normalizer) == (3.25, 2.0)
    values = np.frombuffer(response.loss.data, real)
    assert values.tolist() == (list(range(30)) if reduction == "none" else [7.5])
    assert list(response.loss.shape) == ([2, 3, 5] if reduction == "none" else [])
    assert response.HasField("grad") == grad
    if grad:
        assert np.frombuffer(response.grad.data, dtype).tolist() == [i / 4 for i in range(30)]
        assert list(response.grad.shape) == [2, 3, 5]


def test_no_number_is_longer_than_five_bytes() -> None:
    """protobufjs reads a 32-bit number of one to five bytes, or of ten."""
    layout = mask_layout(inputs_of(1, [(1, 1), (1, 300), (300, 300), (1, 70_000)] * 2, "uint8"))
    masks, _, _ = layout.arrays()
    for mask in masks:
        mask[...] = 0
    # All bytes from 0x80 on are of numbers that go on.
    found = re.findall(rb"[\x80-\xff]+", layout.message(masks, []))
    assert {len(run) for run in found} >= {1, 2, 4}
    assert max(map(len, found)) == 4


@pytest.mark.parametrize("implementation", ["python", "upb"])
def test_every_implementation_reads_the_padded_numbers(implementation: str) -> None:
    """A varint may be longer than it need be; the offsets of the elements call for each length."""
    maps = [(1, 1), (1, 3), (200, 1), (1, 100_000)]
    layout = mask_layout(inputs_of(3, maps, "uint8", owner=True), entry=True)
    masks, owners, _ = layout.arrays()
    for i, array in enumerate((*masks, *owners)):
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
        input=layout.message(masks, owners),
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
