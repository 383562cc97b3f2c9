"""Requests as messages and back, and what is refused on the way."""

from __future__ import annotations

import dataclasses
import struct
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from cass import convert
from cass.codec import encode
from cass.codec.encode import loss_request
from cass.specs import mask_spec_message
from cass.v1 import cass_pb2 as pb
from cass_core import InvalidRequest, LossSpec, MaskSpec
from cass_core.inputs import LossInputs, MaskInputs

BOXES = [np.array([[1, 2, 3, 4.5], [0, 0, 8, 8]], np.float32), None]


def assert_same(first: Any, second: Any) -> None:
    """Equal dataclasses, whose arrays are equal in dtype, shape and bits."""
    for field in dataclasses.fields(first):
        a, b = getattr(first, field.name), getattr(second, field.name)
        if dataclasses.is_dataclass(a) and not isinstance(a, MaskSpec | LossSpec):
            assert_same(a, b)
        elif isinstance(a, np.ndarray | torch.Tensor):
            a, b = np.asarray(a), np.asarray(b)
            assert (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes()), field.name
        elif field.name != "single":  # the answer's form is the caller's business
            assert a == b, field.name


def parsed(inputs: LossInputs) -> pb.ComputeLossRequest:
    return pb.ComputeLossRequest.FromString(loss_request(inputs))


def mask_request(inputs: MaskInputs) -> pb.GenerateMaskRequest:
    return pb.GenerateMaskRequest.FromString(encode.mask_request(inputs))


def mask_inputs(boxes: Any = BOXES, image_size: Any = (8, 16), **changes: Any) -> MaskInputs:
    arguments: dict[str, Any] = {
        "feature_map": (2, 4),
        "spec": MaskSpec(patch_size=1),
        "dtype": "float32",
        "return_owner": False,
    } | changes
    return MaskInputs.check(boxes, image_size, **arguments)


def as_protobuf_writes(inputs: MaskInputs) -> pb.GenerateMaskRequest:
    """The message, each field of it set one after the other."""
    sizes = np.asarray(inputs.sizes).tolist()
    return pb.GenerateMaskRequest(
        boxes=pb.BoxBatch(
            xyxy=struct.pack(
                f"<{4 * inputs.boxes.num_boxes}f", *np.asarray(inputs.boxes.xyxy).flat
            ),
            counts=inputs.boxes.counts.tolist(),
        ),
        image_sizes=pb.ImageSizes(
            heights=[int(height) for height, _ in sizes], widths=[int(width) for _, width in sizes]
        ),
        feature_maps=[pb.FeatureMap(height=height, width=width) for height, width in inputs.maps],
        mask_spec=mask_spec_message(inputs.spec),
        dtype=getattr(pb, f"DATA_TYPE_{inputs.dtype.upper()}"),
        return_owner=inputs.return_owner,
    )


@pytest.mark.parametrize(
    "inputs",
    [
        mask_inputs(),
        mask_inputs(dtype="float16", return_owner=True),
        mask_inputs(dtype="uint8"),
        mask_inputs(spec=MaskSpec.baseline().replace(merge="sum")),
        mask_inputs([torch.tensor([[1.0, 2, 3, 4]])], dtype="bfloat16"),
        mask_inputs(image_size=[(8, 16), (2**31 - 1, 1)]),
        mask_inputs(feature_map=[(2, 4), (1, 1), (2**31 - 1, 3)]),
        mask_inputs([]),
        mask_inputs([], image_size=[]),
        mask_inputs([None, []]),
        *(mask_inputs([[[0, 0, 8, 8]] * count, None]) for count in (127, 128, 255, 256, 20_000)),
        mask_inputs([None] * 300, image_size=[(8, 300)] * 300),
    ],
)
def test_mask_requests_are_written_as_by_protobuf_and_read_back(inputs: MaskInputs) -> None:
    """Twice, since what is beside the boxes is remembered."""
    expected = as_protobuf_writes(inputs)
    entry = pb.StreamMasksRequest(request=expected)
    for _ in range(2):
        assert encode.mask_request(inputs) == expected.SerializeToString()
        assert encode.stream_request(inputs) == entry.SerializeToString()
        assert_same(inputs, convert.mask_inputs(expected))


def loss_inputs(logits: Any, target: Any = None, **changes: Any) -> LossInputs:
    arguments: dict[str, Any] = {"spec": LossSpec(), "num_boxes": None, "return_grad": True}
    return LossInputs.check(logits, target, **(arguments | changes))


ZEROS = np.zeros((2, 2, 4), np.float32)
FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


@pytest.mark.parametrize(
    "inputs",
    [
        *(
            loss_inputs(torch.arange(6.0).reshape(2, 3).to(logits), torch.ones(2, 3).to(target))
            for logits in FLOATS
            for target in (torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.uint8)
        ),
        loss_inputs(ZEROS, ZEROS.reshape(2, 8), return_grad=False),
        loss_inputs(ZEROS, ZEROS, spec=LossSpec(reduction="per_object"), num_boxes=2.5),
        loss_inputs(ZEROS, ZEROS, num_boxes=0),
        loss_inputs(ZEROS, mask=mask_inputs()),
        loss_inputs(ZEROS[:0], mask=mask_inputs([])),
        loss_inputs(ZEROS, mask=mask_inputs(image_size=[(8, 16), (4, 4)]), num_boxes=7),
        loss_inputs(
            torch.zeros(1, 8),
            mask=mask_inputs([torch.tensor([[1.0, 2, 3, 4]])], dtype="float32"),
            return_grad=False,
        ),
    ],
)
def test_loss_request_round_trip(inputs: LossInputs) -> None:
    data = loss_request(inputs)
    assert_same(inputs, convert.loss_inputs(pb.ComputeLossRequest.FromString(data)))


def test_layout_of_what_is_sent() -> None:
    request = mask_request(mask_inputs())
    assert request.boxes.xyxy == struct.pack("<8f", 1, 2, 3, 4.5, 0, 0, 8, 8)
    assert list(request.boxes.counts) == [2, 0]
    columns = np.array([[1, 2, 3], [4, 5, 6]], np.float32).T
    target = np.array([[0.25, 1]] * 3, np.float32)
    sent = parsed(LossInputs.check(columns, target, LossSpec(), None, False))
    assert (list(sent.logits.shape), sent.logits.dtype) == ([3, 2], pb.DATA_TYPE_FLOAT32)
    assert sent.logits.data == struct.pack("<6f", 1, 4, 2, 5, 3, 6)
    assert sent.target.data == struct.pack("<6f", *[0.25, 1] * 3)


def test_a_tensor_across_words_is_read_all_the_same() -> None:
    """It is copied, since the kernels are compiled for whole words."""
    sent = parsed(loss_inputs(ZEROS, ZEROS))
    data = bytes(3) + struct.pack("<8d", *range(8))
    sent.logits.CopyFrom(pb.Tensor(dtype=pb.DATA_TYPE_FLOAT64, shape=[8]))
    array, _ = convert.tensor(sent.logits, "logits", ["float64"], memoryview(data)[3:])
    assert array.flags.aligned
    assert array.tolist() == list(range(8))


def test_decoded_arrays_are_views_of_bytes() -> None:
    loss = convert.loss_inputs(parsed(loss_inputs(ZEROS, ZEROS)))
    boxes = convert.mask_inputs(mask_request(mask_inputs())).boxes
    for array in (loss.logits, loss.target, np.asarray(boxes.xyxy)):
        assert array is not None
        assert not array.flags.writeable
        base: Any = array
        while isinstance(base, np.ndarray):
            base = base.base
        assert isinstance(base, bytes)


Change = Callable[[Any], object]
SIDES = "must be two whole numbers from 1 to 2147483647"
DTYPES = "float32, float16, bfloat16"
LOGITS = f"must have a dtype of {DTYPES}, float64"
TARGETS = f"must have a dtype of {DTYPES}, float64, uint8"


def _set(path: str, value: Any) -> Change:
    """Set a scalar, or replace a list, at a dotted path of a message."""

    def change(message: Any) -> None:
        *parents, name = path.split(".")
        for parent in parents:
            message = getattr(message, parent)
        if isinstance(value, list):
            del getattr(message, name)[:]
            getattr(message, name).extend(value)
        else:
            setattr(message, name, value)

    return change


def refused(read: Callable[[Any], object], request: Any, change: Change) -> str:
    """The error of a good request that was changed."""
    change(request)
    with pytest.raises(InvalidRequest) as caught:
        read(request)
    return str(caught.value)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (_set("boxes.xyxy", b"x" * 17), "boxes.xyxy: has 17 bytes, which is not a multiple of 16"),
        (_set("boxes.counts", [1, 0]), "boxes.counts: add up to 1, but there are 2 boxes"),
        (
            _set("boxes.counts", [2**32 - 1] * 3),
            "boxes.counts: add up to 12884901885, but there are 2 boxes",
        ),
        (
            _set("boxes.xyxy", struct.pack("<8f", 0, 0, 1, 1, 0, 0, float("inf"), 1)),
            "boxes[0][1].x2: is not finite (inf)",
        ),
        (
            _set("boxes.xyxy", struct.pack("<8f", 0, 0, 1, 1, 0, 3, 1, 2)),
            "boxes[0][1].y2: is smaller than y1; boxes are x1, y1, x2, y2",
        ),
        (_set("image_sizes.heights", [8, 8]), "image_size: has 2 heights, but 1 widths"),
        (_set("image_sizes.widths", []), "image_size: has 1 heights, but 0 widths"),
        (
            lambda m: m.ClearField("image_sizes"),
            "image_size: has 0 entries, but there are 2 images",
        ),
        (
            lambda m: m.image_sizes.CopyFrom(pb.ImageSizes(heights=[8] * 3, widths=[16] * 3)),
            "image_size: has 3 entries, but there are 2 images",
        ),
        (
            lambda m: m.image_sizes.CopyFrom(pb.ImageSizes(heights=[8, 8], widths=[16, 2**31])),
            f"image_size[1]: {SIDES}, got (8, 2147483648)",
        ),
        (_set("image_sizes.heights", [0]), f"image_size: {SIDES}, got (0, 16)"),
        (_set("feature_maps", []), "feature_map: is missing"),
        (
            _set("feature_maps", [pb.FeatureMap(height=1), pb.FeatureMap(height=2, width=2)]),
            f"feature_map[0]: {SIDES}, got (1, 0)",
        ),
        (
            _set("feature_maps", [pb.FeatureMap(height=2**31, width=2)]),
            f"feature_map[0]: {SIDES}, got (2147483648, 2)",
        ),
        (_set("dtype", 5), f"dtype: must be one of {DTYPES}, uint8, got float64"),
        (_set("dtype", 77), f"dtype: must be one of {DTYPES}, uint8, got the unknown value 77"),
    ],
)
def test_mask_request_refused(change: Change, error: str) -> None:
    assert refused(convert.mask_inputs, mask_request(mask_inputs()), change) == error


def test_empty_request_is_refused_by_what_it_lacks() -> None:
    with pytest.raises(InvalidRequest, match=r"^feature_map: is missing$"):
        convert.mask_inputs(pb.GenerateMaskRequest())
    with pytest.raises(InvalidRequest, match=r"^logits: must have a dtype of float32"):
        convert.loss_inputs(pb.ComputeLossRequest())


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (
            _set("logits.shape", [2, 2, 5]),
            "logits: has 64 bytes of data, the shape [2, 2, 5] needs 80",
        ),
        (
            # 2^96 elements: no product overflows, nothing is allocated.
            _set("logits.shape", [2**32 - 1] * 3),
            "logits: has 64 bytes of data, the shape [4294967295, 4294967295, 4294967295] needs "
            f"{4 * (2**32 - 1) ** 3}",
        ),
        (_set("logits.shape", [1] * 9), "logits: has 9 dimensions, at most 8 are possible"),
        (_set("logits.dtype", 4), f"logits: {LOGITS}, got uint8"),
        (_set("logits.dtype", 99), f"logits: {LOGITS}, got the unknown value 99"),
        (_set("target.shape", [4, 4]), "target: has the shape [4, 4], the logits have [2, 2, 4]"),
        (_set("target.dtype", pb.DATA_TYPE_INT32), f"target: {TARGETS}, got int32"),
        (
            _set("target.dtype", pb.DATA_TYPE_UNSPECIFIED),
            f"target: {TARGETS}, got the unknown value 0",
        ),
        (
            _set("target.data", bytes(63)),
            "target: has 63 bytes of data, the shape [2, 2, 4] needs 64",
        ),
        (_set("logits.data", b""), "logits: has 0 bytes of data, the shape [2, 2, 4] needs 64"),
        (lambda m: m.ClearField("source"), "target: give either a target or boxes"),
        (_set("num_boxes", -1.0), "num_boxes: must be a number of at least 0, got -1.0"),
        (_set("num_boxes", float("nan")), "num_boxes: must be a number of at least 0, got nan"),
        (_set("loss_spec.kind", 9), "loss_spec.kind: has the unknown value 9"),
        (
            _set("loss_spec.reduction", pb.REDUCTION_PER_OBJECT),
            "num_boxes: is needed for loss_spec.reduction per_object",
        ),
    ],
)
def test_loss_request_refused(change: Change, error: str) -> None:
    assert refused(convert.loss_inputs, parsed(loss_inputs(ZEROS, ZEROS)), change) == error


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (
            _set("mask.dtype", pb.DATA_TYPE_UINT8),
            "mask: must set nothing of its answer for a loss",
        ),
        (_set("mask.return_owner", True), "mask: must set nothing of its answer for a loss"),
        (
            _set("mask.feature_maps", [pb.FeatureMap(height=2, width=4)] * 2),
            "feature_map: must be one (h, w) here",
        ),
        (_set("mask.feature_maps", []), "feature_map: must be one (h, w) here"),
        (_set("mask.boxes.xyxy", b"x"), "boxes.xyxy: has 1 bytes, which is not a multiple of 16"),
        (_set("mask.mask_spec.merge", 8), "mask_spec.merge: has the unknown value 8"),
        (
            # A map of 2.9e17 patches is compared with the logits, never made.
            _set("mask.feature_maps", [pb.FeatureMap(height=2**29, width=2**29)]),
            "logits: have the shape [2, 2, 4], the grid is [2, 536870912, 536870912] or "
            "[2, 288230376151711744]: feature_map (536870912, 536870912) with "
            "mask_spec.patch_size 1",
        ),
        (
            _set("mask.feature_maps", [pb.FeatureMap(height=2**31 - 1, width=2**31 - 1)]),
            "feature_map[0]: (2147483647, 2147483647) is too large for this batch",
        ),
        (
            _set("mask.mask_spec.patch_size", 2),
            "logits: have the shape [2, 2, 4], the grid is [2, 1, 2] or [2, 2]: feature_map (2, 4) "
            "with mask_spec.patch_size 2; these would fit mask_spec.patch_size 1",
        ),
    ],
)
def test_loss_request_from_boxes_refused(change: Change, error: str) -> None:
    request = parsed(loss_inputs(ZEROS, mask=mask_inputs()))
    assert refused(convert.loss_inputs, request, change) == error


def test_scalar_logits_are_refused() -> None:
    request = pb.ComputeLossRequest(
        logits=pb.Tensor(dtype=pb.DATA_TYPE_FLOAT32, data=bytes(4)),
        target=pb.Tensor(dtype=pb.DATA_TYPE_FLOAT32, data=bytes(4)),
    )
    with pytest.raises(InvalidRequest, match=r"^logits: must have at least one dimension$"):
        convert.loss_inputs(request)


def test_of_two_sources_the_last_counts() -> None:
    """As protobuf says of a oneof: there cannot be two, the later in the bytes stays."""
    from_target = loss_request(loss_inputs(ZEROS, ZEROS))
    from_boxes = parsed(loss_inputs(ZEROS, mask=mask_inputs()))
    source = pb.ComputeLossRequest(mask=from_boxes.mask).SerializeToString()
    both = pb.ComputeLossRequest.FromString(from_target + source)
    assert_same(convert.loss_inputs(both), loss_inputs(ZEROS, mask=mask_inputs()))


@pytest.mark.parametrize(
    "shape",
    [
        [2**32 - 1] * 8,
        [2**31 - 1, 2**31 - 1, 4],
        [2**16, 2**16, 2**16, 2**16],  # 2^64 elements: 0 if the product wrapped around
        # No element, yet more than NumPy can index.
        [0, 2**32 - 1, 2**32 - 1, 2**32 - 1],
        [2**31 - 1, 2**31 - 1, 0, 8],
    ],
)
def test_a_shape_beyond_all_memory_is_refused(shape: list[int]) -> None:
    tensor = pb.Tensor(dtype=pb.DATA_TYPE_FLOAT32, shape=shape)
    tracemalloc.start()
    try:
        with pytest.raises(InvalidRequest) as caught:
            convert.loss_inputs(pb.ComputeLossRequest(logits=tensor, target=tensor))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert caught.value.field == "logits"
    assert peak < 1 << 20
