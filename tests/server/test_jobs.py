"""Requests read the quick way and the general one: the same jobs, and the same errors."""

from __future__ import annotations

import dataclasses
import gc
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cass.v1 import cass_pb2 as pb
from cass_core import InvalidRequest
from cass_server.asks import MaskAsk
from cass_server.engine import CpuEngine
from cass_server.jobs import MaskJob, MaskReader, Reader, read_mask, read_stream_mask
from cass_server.limits import Limits
from tests.server.requests import mask_request

LIMITS = Limits(images=6, boxes=12, patches=400, feature_maps=2)


def outcome(read: Reader, data: bytes) -> Any:
    """All that a job holds, and its answer; or its error."""
    try:
        job = read(data)
    except InvalidRequest as error:
        return error.field, error.reason
    assert isinstance(job, MaskJob)
    fields = {f.name: getattr(job.inputs, f.name) for f in dataclasses.fields(job.inputs)}
    boxes = fields.pop("boxes")
    arrays = (boxes.xyxy, boxes.counts, boxes.offsets, fields.pop("sizes"))
    return (
        [(array.dtype, array.shape, array.tobytes()) for array in map(np.asarray, arrays)],
        fields,
        (job.answer_bytes, job.effort, job.work),
        job.fill(job.lay_out(), CpuEngine()),
    )


def both(request: pb.GenerateMaskRequest, *, entry: bool) -> bytes:
    """A request as it is sent alone, or over a stream."""
    return (pb.StreamMasksRequest(request=request) if entry else request).SerializeToString()


def general(data: bytes, *, entry: bool) -> Any:
    """As `outcome`, of the general way."""
    return outcome(lambda data: (read_stream_mask if entry else read_mask)(data, LIMITS), data)


COORDINATES = st.sampled_from([0.0, 1.5, 8.0, 31.0, 40.0, float("nan"), float("inf"), -4.0])
BOXES = st.lists(st.tuples(*[COORDINATES] * 4), max_size=5)


@st.composite
def requests(draw: st.DrawFn) -> pb.GenerateMaskRequest:
    """Most of them good."""
    if draw(st.booleans()):
        boxes = [[0.0, 1.5, 8.0, 31.0]] * draw(st.integers(0, 5))
    else:
        boxes = [list(box) for box in draw(BOXES)]
    counts = draw(st.sampled_from([[len(boxes)], [0, len(boxes)], [len(boxes), 0, 0], [200]]))
    xyxy = b"".join(struct.pack("<4f", *box) for box in boxes) + draw(st.sampled_from([b"", b"x"]))
    return pb.GenerateMaskRequest(
        boxes=pb.BoxBatch(xyxy=xyxy, counts=counts),
        image_sizes=draw(
            st.sampled_from(
                [
                    pb.ImageSizes(heights=[32], widths=[48]),
                    pb.ImageSizes(heights=[32] * len(counts), widths=[300] * len(counts)),
                    pb.ImageSizes(heights=[0], widths=[32]),
                ]
            )
        ),
        feature_maps=draw(
            st.lists(
                st.builds(pb.FeatureMap, height=st.integers(0, 9), width=st.integers(1, 9)),
                max_size=3,
            )
        ),
        mask_spec=draw(
            st.sampled_from(
                [pb.MaskSpec(patch_size=1), pb.MaskSpec(), pb.MaskSpec(merge=pb.MERGE_SUM)]
            )
        ),
        dtype=draw(st.sampled_from([0, 1, 2, 3, 4, 5, 9])),
        return_owner=draw(st.booleans()),
    )


@settings(max_examples=150, deadline=None)
@given(
    requests=st.lists(requests(), min_size=1, max_size=3),
    entry=st.booleans(),
    at=st.integers(0, 200),
    put=st.binary(max_size=2),
)
def test_both_ways_read_the_same(
    requests: list[pb.GenerateMaskRequest], entry: bool, at: int, put: bytes
) -> None:
    """Each request twice, when all is new and once it is known; and with a few bytes changed."""
    reader = MaskReader(LIMITS, entry=entry)
    for request in requests:
        data = both(request, entry=entry)
        changed = data[:at] + put + data[at + len(put) :]
        for sent in (data, changed, data, changed):
            assert outcome(reader, sent) == general(sent, entry=entry)


@pytest.mark.parametrize("entry", [False, True])
def test_what_was_asked_before_is_read_without_protobuf(
    entry: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = MaskReader(LIMITS, entry=entry)
    reader(both(mask_request(images=2, boxes=3), entry=entry))
    monkeypatch.delattr("cass_server.jobs.lift")
    job = reader(both(mask_request(images=2, boxes=1), entry=entry))
    assert job.work == (2, 2, 32)
    with pytest.raises(InvalidRequest, match="15 boxes, the server's limit is 12"):
        reader(both(_boxes(15, images=2), entry=entry))


def _boxes(boxes: int, images: int) -> pb.GenerateMaskRequest:
    request = mask_request(images=images)
    request.boxes.xyxy = bytes(16 * boxes)
    request.boxes.counts[0] = boxes - images + 1
    return request


def test_boxes_that_come_twice_are_merged_each_time() -> None:
    """They are no part of what requests have in common: the later `xyxy` counts."""
    later = pb.GenerateMaskRequest(boxes=pb.BoxBatch(xyxy=struct.pack("<4f", 0, 0, 4, 4)))
    data = mask_request().SerializeToString() + later.SerializeToString()
    reader = MaskReader(LIMITS)
    for _ in range(2):
        job = reader(data)
        assert np.asarray(job.inputs.boxes.xyxy).tolist() == [[0, 0, 4, 4]]


def test_a_reader_keeps_a_bounded_number_of_options() -> None:
    reader = MaskReader(LIMITS)
    for width in range(1, 1001):
        request = mask_request()
        request.image_sizes.widths[0] = width
        reader(request.SerializeToString())
    gc.collect()
    assert sum(type(kept) is MaskAsk for kept in gc.get_objects()) <= 256


def test_nobodys_long_list_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = Limits(images=1000)
    request = mask_request(images=1000)
    request.image_sizes.heights[:], request.image_sizes.widths[:] = [32] * 1000, [32] * 1000
    reader = MaskReader(limits)
    reader(request.SerializeToString())
    monkeypatch.delattr("cass_server.jobs.lift")
    with pytest.raises(NameError):
        reader(request.SerializeToString())
