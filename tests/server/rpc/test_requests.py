"""Requests read anew, or looked up by what was asked before: the same, and the same errors."""

from __future__ import annotations

import dataclasses
import gc
import struct
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cass.v1 import cass_pb2 as pb
from cass_core import InvalidRequest
from cass_core.cpu.boxes import boxes_of_message
from cass_core.inputs import MaskInputs
from cass_server.config.limits import Limits
from cass_server.engines.base import CpuEngine
from cass_server.rpc.requests import MaskPlan, MaskReader, MaskRequest, Masks, Reader, read_loss
from tests.server.support.requests import loss_request, mask_request

CONTEXT: Any = None
"""No engine of these tests looks at it."""
SMALL = CpuEngine().small_fill
LIMITS = Limits(images=6, boxes=12, patches=400, feature_maps=2)


def outcome(read: Reader, data: bytes) -> Any:
    """All that a request holds, and its answer; or its error."""
    try:
        request = read(data)
    except InvalidRequest as error:
        return error.field, error.reason
    assert isinstance(request, MaskRequest)
    inputs = request.inputs
    fields = {f.name: getattr(inputs, f.name) for f in dataclasses.fields(inputs)}
    boxes = fields.pop("boxes")
    arrays = [boxes.xyxy, boxes.counts, boxes.offsets, fields.pop("sizes")]
    weighting = fields.pop("weighting")
    if weighting is not None:
        fields["weight_spec"] = weighting.spec
        ignore = weighting.ignore
        arrays += [] if ignore is None else [ignore.xyxy, ignore.counts]
        given = weighting.valid_region, weighting.box_weights
        arrays += [array for array in given if array is not None]
    return (
        [(array.dtype, array.shape, array.tobytes()) for array in map(np.asarray, arrays)],
        fields,
        (request.answer_bytes, request.size),
        answer_of(request),
    )


def fill(inputs: MaskInputs, out: Masks, _: Any) -> None:
    CpuEngine().masks(inputs, *out[:2], weights=out[2])


def answer_of(request: MaskRequest) -> bytes:
    """As a server on the CPU gives it; if there are two ways, they are the same to the bit."""
    large = request._replace(plan=request.plan._replace(small=None))
    answer = large.encode(large.compute(fill, CONTEXT))
    assert request.encode(request.compute(fill, CONTEXT)) == answer
    return answer


def fills_itself(request: MaskRequest) -> bool:
    """Whether its masks are filled without the engine."""
    engine = Mock()
    request.compute(engine, CONTEXT)
    return not engine.called


def sent(request: pb.GenerateMaskRequest, *, streamed: bool) -> bytes:
    """A request as it is sent alone, or over a stream."""
    return (pb.StreamMasksRequest(request=request) if streamed else request).SerializeToString()


COORDINATES = st.sampled_from([0.0, 1.5, 8.0, 31.0, 40.0, float("nan"), float("inf"), -4.0])
BOXES = st.lists(st.tuples(*[COORDINATES] * 4), max_size=5)


SIZES = [
    pb.ImageSizes(heights=[32], widths=[48]),
    pb.ImageSizes(heights=[32] * 3, widths=[300] * 3),
    pb.ImageSizes(heights=[0], widths=[32]),
]
MAPS = st.builds(pb.FeatureMap, height=st.integers(0, 9), width=st.integers(1, 9))
SPECS = [pb.MaskSpec(patch_size=1), pb.MaskSpec(), pb.MaskSpec(merge=pb.MERGE_SUM)]


@st.composite
def requests(draw: st.DrawFn) -> pb.GenerateMaskRequest:
    """Most of them good."""
    boxes = draw(BOXES | st.lists(st.just((0.0, 1.5, 8.0, 31.0)), max_size=5))
    counts = draw(st.sampled_from([[len(boxes)], [0, len(boxes)], [len(boxes), 0, 0], [200]]))
    xyxy = b"".join(struct.pack("<4f", *box) for box in boxes) + draw(st.sampled_from([b"", b"x"]))
    return pb.GenerateMaskRequest(
        boxes=pb.BoxBatch(xyxy=xyxy, counts=counts),
        image_sizes=draw(st.sampled_from(SIZES)),
        feature_maps=draw(st.lists(MAPS, max_size=3)),
        mask_spec=draw(st.sampled_from(SPECS)),
        dtype=draw(st.sampled_from([0, 1, 2, 3, 4, 5, 9])),
        return_owner=draw(st.booleans()),
    )


@settings(max_examples=150)
@given(
    requests=st.lists(requests(), min_size=1, max_size=3),
    streamed=st.booleans(),
    at=st.integers(0, 200),
    put=st.binary(max_size=2),
)
def test_what_was_asked_before_is_read_alike(
    requests: list[pb.GenerateMaskRequest], streamed: bool, at: int, put: bytes
) -> None:
    """As by a reader that has read nothing: once all is new and once it is known; also corrupt."""
    reader = MaskReader(LIMITS, SMALL, streamed=streamed)
    for request in requests:
        data = sent(request, streamed=streamed)
        changed = data[:at] + put + data[at + len(put) :]
        for message in (data, changed, data, changed):
            new = MaskReader(LIMITS, streamed=streamed)
            assert outcome(reader, message) == outcome(new, message)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("streamed", [False, True])
def test_a_request_that_differs_in_one_byte_is_read_alike(streamed: bool, weighted: bool) -> None:
    """As by a reader that knows none; cut off, longer, and with each byte changed."""
    request = mask_request(images=3, boxes=1)
    request.boxes.counts[:] = [0, 2, 1]
    if weighted:
        region = np.array([[0, 0, 9, 9]] * 3, np.float32)
        weights = np.array([1, 0.5, 2], np.float32)
        for field, array in ((request.valid_region, region), (request.box_weights, weights)):
            field.dtype, field.data = pb.DATA_TYPE_FLOAT32, array.tobytes()
            field.shape.extend(array.shape)
        request.ignore.counts.extend([1, 0, 0])
        request.ignore.xyxy = region[0].tobytes()
        request.weight_spec.balance = pb.BALANCE_OBJECT
        request.return_weights = True
    data = sent(request, streamed=streamed)
    reader = MaskReader(LIMITS, SMALL, streamed=streamed)
    reader(data)
    messages = [data[:end] for end in range(len(data))] + [data + b"\0", data + data]
    for at, byte in enumerate(data):
        values = {0, 1, 0x12, 0x7F, 0x80, 0xFF, byte ^ 1, byte ^ 0x40} - {byte}
        messages += [data[:at] + bytes([value]) + data[at + 1 :] for value in values]
    for message in messages:
        new = MaskReader(LIMITS, streamed=streamed)
        assert outcome(reader, message) == outcome(new, message)


@pytest.mark.parametrize("streamed", [False, True])
def test_large_messages_without_boxes(streamed: bool) -> None:
    """Of which the large fields are taken out: refused as the small ones are."""

    def refusals(size: int) -> list[Any]:
        ones = pb.Tensor(dtype=pb.DATA_TYPE_FLOAT32, shape=[size, 4], data=bytes(16 * size))
        ignore = pb.BoxBatch(counts=[size], xyxy=bytes(16 * size))
        given: list[dict[str, Any]] = [
            {"ignore": ignore}, {"valid_region": ones}, {"box_weights": ones}
        ]  # fmt: skip
        rest = mask_request(images=1, boxes=0)
        rest.ClearField("boxes")
        reader = MaskReader(Limits(), streamed=streamed)
        found = []
        for fields in given:
            request = pb.GenerateMaskRequest(return_weights=True, **fields)
            request.MergeFrom(rest)
            found.append(outcome(reader, sent(request, streamed=streamed))[0])
        return found

    assert refusals(4096) == refusals(2)


@pytest.mark.parametrize("streamed", [False, True])
def test_what_was_asked_before_is_not_worked_out_again(
    streamed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without protobuf, its boxes and counts are read, one of two bytes too, and checked."""
    reader = MaskReader(Limits(boxes=300), SMALL, streamed=streamed)
    request = mask_request(images=3)
    reader(sent(request, streamed=streamed))
    monkeypatch.delattr("cass.convert.mask_options")
    corners = np.arange(203 * 4, dtype=np.float32)
    request.boxes.xyxy, request.boxes.counts[:] = corners.tobytes(), [200, 0, 3]
    with monkeypatch.context() as patch:
        patch.delattr("cass_server.rpc.parsing.lift")
        read = reader(sent(request, streamed=streamed))
    assert read.xyxy.ravel().tolist() == corners.tolist()
    assert read.offsets.tolist() == [0, 200, 200, 203]
    assert read.inputs.boxes.counts.tolist() == [200, 0, 3]
    assert read.size == (3, 203, 48)
    request.boxes.xyxy, request.boxes.counts[:] = bytes(16 * 301), [299, 1, 1]
    with pytest.raises(InvalidRequest, match="301 boxes, the server's limit is 300"):
        reader(sent(request, streamed=streamed))


@pytest.mark.parametrize("streamed", [False, True])
def test_nothing_is_read_behind_a_message(streamed: bool) -> None:
    """Cut off anywhere, it is refused, though the memory behind it has what is missing."""
    request = pb.GenerateMaskRequest(boxes=mask_request(images=3, boxes=2).boxes)
    whole = np.frombuffer(sent(request, streamed=streamed), np.uint8)
    xyxy, offsets = np.empty((6, 4), np.float32), np.empty(4, np.int64)
    assert boxes_of_message(whole, streamed, xyxy, offsets) == (6, 3, len(whole))
    for end in range(len(whole)):
        assert boxes_of_message(whole[:end], streamed, xyxy, offsets) == (0, 0, 0)


def test_what_is_small() -> None:
    """By hand: 16 patches an image, in float32, of which 2^24 are reached in a short time."""
    reader = MaskReader(Limits(boxes=1 << 24), SMALL)

    def is_small(request: pb.GenerateMaskRequest) -> bool:
        return fills_itself(reader(request.SerializeToString()))

    request = mask_request(images=2, side=4)
    small = reader(request.SerializeToString()).plan.small
    assert small is not None
    assert small.most_boxes == 2**24 // 16
    assert is_small(request)
    assert not is_small(mask_request(side=64, boxes=2**12 + 1))
    assert not is_small(mask_request(side=512))
    request.return_owner = True
    assert not is_small(request)
    request.dtype, request.return_owner = pb.DATA_TYPE_UINT8, False
    request.boxes.ClearField("xyxy")
    request.boxes.counts[:] = [0, 0]
    assert not is_small(request)
    assert not fills_itself(MaskReader(LIMITS)(mask_request().SerializeToString()))


def test_boxes_that_come_twice_are_merged_each_time() -> None:
    """They are no part of what requests have in common: the later `xyxy` counts."""
    later = pb.GenerateMaskRequest(boxes=pb.BoxBatch(xyxy=struct.pack("<4f", 0, 0, 4, 4)))
    data = mask_request().SerializeToString() + later.SerializeToString()
    reader = MaskReader(LIMITS, SMALL)
    for _ in range(2):
        request = reader(data)
        assert np.asarray(request.inputs.boxes.xyxy).tolist() == [[0, 0, 4, 4]]


@pytest.mark.slow
def test_a_reader_keeps_a_bounded_number_of_options() -> None:
    def kept() -> int:
        gc.collect()
        return sum(type(found) is MaskPlan for found in gc.get_objects())

    reader, others = MaskReader(LIMITS, SMALL), kept()
    for width in range(1, 1001):
        request = mask_request()
        request.image_sizes.widths[0] = width
        reader(request.SerializeToString())
    assert 0 < kept() - others <= 256


def test_long_lists_are_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = Limits(images=1000)
    request = mask_request(images=1000)
    request.image_sizes.heights[:], request.image_sizes.widths[:] = [32] * 1000, [32] * 1000
    reader = MaskReader(limits)
    reader(request.SerializeToString())
    monkeypatch.delattr("cass.convert.mask_options")
    with pytest.raises(AttributeError):
        reader(request.SerializeToString())


@pytest.mark.parametrize("images", [Limits().images, 100_000])
def test_no_valid_request_is_too_bulky(images: int) -> None:
    """The most images, each of a size of its own, and maps, with numbers as long as they get."""
    limits, largest = Limits(images=images), 2**31 - 1
    request = pb.GenerateMaskRequest(
        boxes=pb.BoxBatch(
            counts=[0] * (images - 1) + [limits.boxes], xyxy=bytes(16 * limits.boxes)
        ),
        image_sizes=pb.ImageSizes(heights=[largest] * images, widths=[largest] * images),
        feature_maps=[pb.FeatureMap(height=largest, width=1)] * limits.feature_maps,
        mask_spec=pb.MaskSpec(patch_size=largest, base_sigma=[0.5, 0.5]),
    )
    read = MaskReader(limits)(request.SerializeToString())
    assert read.size == (images, limits.boxes, images * limits.feature_maps)


def test_the_bytes_of_answers_and_the_size_of_requests() -> None:
    """By hand: elements of 4 bytes, of 1 byte and an owner of 4, and of a gradient alone."""
    request = mask_request(images=2, side=4, maps=2)
    reader = MaskReader(LIMITS, SMALL)
    assert reader(request.SerializeToString()).answer_bytes == 2 * 2 * 16 * 4
    request.dtype, request.return_owner = pb.DATA_TYPE_UINT8, True
    assert reader(request.SerializeToString()).answer_bytes == 2 * 2 * 16 * (1 + 4)
    request.return_weights = True
    assert reader(request.SerializeToString()).answer_bytes == 2 * 2 * 16 * (1 + 4 + 4)
    request.return_owner, request.weight_spec.balance = False, pb.BALANCE_OBJECT  # needs owners
    assert reader(request.SerializeToString()).answer_bytes == 2 * 2 * 16 * (1 + 4 + 4)


def test_the_bytes_and_the_size_of_losses() -> None:
    """By hand, 4 bytes each: the mask it is made from, its weights and owners, and the answer."""
    loss = loss_request(images=2, side=4, boxes=3)

    def each() -> int:
        return read_loss(loss.SerializeToString(), LIMITS).answer_bytes // (2 * 16 * 4)

    assert read_loss(loss.SerializeToString(), LIMITS).size == (2, 6, 32)
    assert each() == 1 + 1
    loss.loss_spec.reduction = pb.REDUCTION_NONE
    assert each() == 2 + 1
    loss.return_grad = False
    assert each() == 1 + 1
    loss.mask.weight_spec.background_weight = 0.5
    assert each() == 1 + 2
    loss.mask.weight_spec.balance = pb.BALANCE_OBJECT
    assert each() == 1 + 3
    loss.target.CopyFrom(loss.logits)
    assert each() == 1
