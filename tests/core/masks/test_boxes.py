"""BoxBatch: what it takes, what it keeps."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from cass_core import BoxBatch, InvalidRequest

A = np.array([[1, 2, 3, 4], [5, 6, 7, 8.5]], np.float32)


@pytest.mark.parametrize(
    "boxes",
    [
        [A, None, A[:1]],
        [A.tolist(), [], A[:1].tolist()],
        [A.astype(np.float64), np.empty((0, 4)), A[:1].astype(np.float16)],
        [A.astype(np.int64), np.empty(0), [[1, 2, 3, 4]]],
        ([tuple(A[0]), tuple(A[1])], (), [(1, 2, 3, 4)]),
        [A[:, ::-1][:, ::-1], [[]], A[:1]],
        np.array([A, A, A])[:, :1],
        [torch.from_numpy(A), None, A[:1]],
        [torch.from_numpy(A).double(), torch.empty(0, 4), torch.tensor([[1, 2, 3, 4]])],
    ],
)
def test_from_list(boxes: Any) -> None:
    batch = BoxBatch.from_list(boxes)
    tensors = any(isinstance(entry, torch.Tensor) for entry in boxes)
    assert isinstance(batch.xyxy, torch.Tensor if tensors else np.ndarray)
    xyxy = np.asarray(batch.xyxy)
    assert xyxy.dtype == np.float32
    if isinstance(boxes, np.ndarray):
        assert batch.counts.tolist() == [1, 1, 1]
        assert xyxy.tolist() == [[1, 2, 3, 4]] * 3
        return
    assert batch.counts.tolist() == [2, 0, 1]
    assert batch.offsets.tolist() == [0, 2, 2, 3]
    assert (batch.num_images, batch.num_boxes) == (3, 3)
    last = 8 if np.asarray(boxes[0]).dtype.kind == "i" else 8.5
    assert xyxy.tolist() == [[1, 2, 3, 4], [5, 6, 7, last], [1, 2, 3, 4]]


def test_no_images() -> None:
    batch = BoxBatch.from_list([])
    assert (batch.num_images, batch.num_boxes) == (0, 0)
    assert batch.xyxy.shape == (0, 4)
    assert batch.offsets.tolist() == [0]


def test_good_arrays_are_kept_without_a_copy() -> None:
    assert BoxBatch(A, np.array([2])).xyxy is A
    tensor = torch.from_numpy(A)
    assert BoxBatch(tensor, np.array([2])).xyxy.data_ptr() == tensor.data_ptr()
    counts = np.array([2])
    assert np.shares_memory(BoxBatch(A, counts).counts, counts)


def test_wrap() -> None:
    batch = BoxBatch.from_list([A])
    assert BoxBatch.wrap(batch) is batch
    assert BoxBatch.wrap([A]).num_boxes == 2


def test_huge_boxes_are_boxes() -> None:
    """Sides that overflow float32 do not make finite coordinates wrong."""
    huge = np.array([[-3e38, -3e38, 3e38, 3e38]], np.float32)
    assert BoxBatch(huge, np.array([1])).num_boxes == 1
    with pytest.raises(InvalidRequest, match=r"^boxes\[0\]\[0\].x1: is not finite \(inf\)$"):
        BoxBatch(np.array([[1e39, 0, 1, 1]]), np.array([1]))


def test_the_named_box_is_the_bad_one() -> None:
    xyxy = np.tile(A[:1], (6, 1))
    xyxy[4, 3] = -1
    with pytest.raises(InvalidRequest) as caught:
        BoxBatch(xyxy, np.array([0, 3, 0, 3]))
    assert str(caught.value) == "boxes[3][1].y2: is smaller than y1; boxes are x1, y1, x2, y2"


def test_device_is_kept_and_its_values_are_not_read() -> None:
    # `meta` stands for a device: its values cannot be read at all.
    batch = BoxBatch.from_list([torch.zeros(2, 4, device="meta"), [[1, 2, 3, 4]], None])
    assert isinstance(batch.xyxy, torch.Tensor)
    assert batch.xyxy.device.type == "meta"
    assert batch.xyxy.shape == (3, 4)
    assert batch.counts.tolist() == [2, 1, 0]


@pytest.mark.parametrize(
    "boxes", [[[]], [None], [None, [], np.zeros((0, 4))], [[], [[]]], [torch.zeros(0, 4), None]]
)
def test_images_without_boxes(boxes: Any) -> None:
    batch = BoxBatch.from_list(boxes)
    assert isinstance(batch.xyxy, torch.Tensor) == isinstance(boxes[0], torch.Tensor)
    assert np.asarray(batch.xyxy).shape == (0, 4)
    assert np.asarray(batch.xyxy).dtype == np.float32
    assert (batch.num_images, batch.num_boxes) == (len(boxes), 0)
    assert batch.offsets.tolist() == [0] * (len(boxes) + 1)


@pytest.mark.parametrize(
    "counts", [[2, 0, 1], (2, 0, 1), np.array([2, 0, 1], np.int32), torch.tensor([2, 0, 1])]
)
def test_counts_of_every_kind(counts: Any) -> None:
    batch = BoxBatch([[1, 2, 3, 4]] * 3, counts)  # type: ignore[arg-type]
    assert (batch.counts.dtype, batch.offsets.dtype) == (np.int64, np.int64)
    assert batch.offsets.tolist() == [0, 2, 2, 3]


def test_tensors_are_detached_and_made_contiguous() -> None:
    tensor = torch.from_numpy(A).t().contiguous().t().requires_grad_()
    batch = BoxBatch.from_list([tensor])
    assert isinstance(batch.xyxy, torch.Tensor)
    assert batch.xyxy.is_contiguous()
    assert not batch.xyxy.requires_grad
    assert batch.xyxy.tolist() == A.tolist()


def test_read_only_arrays_are_kept() -> None:
    xyxy = A.copy()
    xyxy.flags.writeable = False  # as in what a request brings
    assert BoxBatch(xyxy, np.array([1, 1])).xyxy is xyxy


def test_repr_leaves_the_offsets_out() -> None:
    shown = repr(BoxBatch.from_list([A]))
    assert shown.startswith("BoxBatch(xyxy=array(")
    assert "offsets" not in shown
