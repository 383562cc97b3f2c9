"""Every argument that cannot be used: the exact field and message, and nothing half done."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import FrozenInstanceError, asdict
from typing import Any

import numpy as np
import pytest
import torch

from cass_core import (
    BoxBatch,
    CassError,
    CassLoss,
    InvalidRequest,
    LossSpec,
    MaskLoss,
    MaskSpec,
    compute_loss,
    generate_mask,
)
from cass_core.inputs import LossInputs, MaskInputs

NAN, INF = float("nan"), float("inf")
Call = Callable[[], Any]
Row = tuple[Call, str, str]


def boxes(value: Any) -> Call:
    """A mask of these boxes."""
    return lambda: generate_mask(value, (8, 8), (4, 4))


def batch(xyxy: Any, counts: Any) -> Call:
    """A BoxBatch of these."""
    return lambda: BoxBatch(xyxy, counts)


def sized(image_size: Any, num_images: int = 2) -> Call:
    """A mask of images of this size."""
    return lambda: generate_mask([[]] * num_images, image_size, (4, 4))


def mapped(feature_map: Any) -> Call:
    """A mask on this feature map."""
    return lambda: generate_mask([[]], (8, 8), feature_map)


def mask(**options: Any) -> Call:
    """A MaskSpec of these."""
    return lambda: MaskSpec(**options)


def lossy(**options: Any) -> Call:
    """A LossSpec of these."""
    return lambda: LossSpec(**options)


def loss(logits: Any, target: Any, spec: Any = LossSpec(), num_boxes: Any = None) -> Call:  # noqa: B008
    """The loss of these."""
    return lambda: compute_loss(logits, target, spec, num_boxes=num_boxes)


def zeros(*shape: int, dtype: Any = np.float32) -> Any:
    """NumPy zeros."""
    return np.zeros(shape, dtype)


GOOD = [1, 1, 5, 5]
NUMBERS = "must be an array of numbers of the shape [N, 4]"

SMALLER = "is smaller than {}1; boxes are x1, y1, x2, y2"

BOXES: list[Row] = [
    (boxes([[[NAN, 1, 5, 5]]]), "boxes[0][0].x1", "is not finite (nan)"),
    (boxes([[], [GOOD, [1, INF, 5, 5]]]), "boxes[1][1].y1", "is not finite (inf)"),
    (boxes([[[1, 1, -INF, 5]]]), "boxes[0][0].x2", "is not finite (-inf)"),
    (boxes([[[1, 1, 5, 1e39]]]), "boxes[0][0].y2", "is not finite (inf)"),
    (boxes([[[1, 1, 5, NAN]]]), "boxes[0][0].y2", "is not finite (nan)"),
    # A box that is wrong in two ways is told to be not finite.
    (boxes([[[5, 1, 1, NAN]]]), "boxes[0][0].y2", "is not finite (nan)"),
    (boxes([[GOOD], None, [GOOD, [5, 1, 4, 5]]]), "boxes[2][1].x2", SMALLER.format("x")),
    (boxes([[[1, 5, 5, 4]]]), "boxes[0][0].y2", SMALLER.format("y")),
    (boxes([[[5, 5, 1, 1]]]), "boxes[0][0].x2", SMALLER.format("x")),
    (boxes([[[3e38, 0, -3e38, 5]]]), "boxes[0][0].x2", SMALLER.format("x")),
    (boxes([torch.tensor([[1.0, 1, 5, NAN]])]), "boxes[0][0].y2", "is not finite (nan)"),
    (boxes([None, torch.tensor([[5, 1, 4, 5]])]), "boxes[1][0].x2", SMALLER.format("x")),
    (boxes([GOOD]), "boxes[0]", "must have the shape [N, 4], got [4]"),
    (boxes([[], [[1, 2, 3]]]), "boxes[1]", "must have the shape [N, 4], got [1, 3]"),
    (boxes([[[1, 2, 3, 4, 5]]]), "boxes[0]", "must have the shape [N, 4], got [1, 5]"),
    (boxes([zeros(2, 2, 4)]), "boxes[0]", "must have the shape [N, 4], got [2, 2, 4]"),
    (boxes([zeros(2, 0, 4)]), "boxes[0]", "must have the shape [N, 4], got [2, 0, 4]"),
    (boxes([7]), "boxes[0]", "must have the shape [N, 4], got []"),
    (boxes([torch.zeros(4)]), "boxes[0]", "must have the shape [N, 4], got [4]"),
    (boxes([[GOOD, [1, 2]]]), "boxes[0]", NUMBERS),
    (boxes([[["a", "b", "c", "d"]]]), "boxes[0]", NUMBERS),
    (boxes([np.array([GOOD], object)]), "boxes[0]", NUMBERS),
    (boxes([np.array([GOOD], complex)]), "boxes[0]", NUMBERS),
    (boxes([np.array([GOOD], bool)]), "boxes[0]", NUMBERS),
    (boxes([{"x1": 1}]), "boxes[0]", NUMBERS),
    (boxes([torch.zeros(1, 4, dtype=torch.complex64)]), "boxes[0]",
     "must be numbers, got complex ones"),
    (boxes([torch.zeros(1, 4).to_sparse()]), "boxes[0]", "must be dense, got torch.sparse_coo"),
    (boxes([np.ma.masked_less([GOOD], 2)]), "boxes[0]", "has masked values"),
    (boxes("boxes"), "boxes", "must be a list with one entry an image, got str"),
    (boxes(b"boxes"), "boxes", "must be a list with one entry an image, got bytes"),
    (boxes({0: [GOOD]}), "boxes", "must be a list with one entry an image, got dict"),
    (boxes(None), "boxes", "must be a list with one entry an image, got NoneType"),
    (boxes(3), "boxes", "must be a list with one entry an image, got int"),
    (boxes(iter([[GOOD]])), "boxes", "must be a list with one entry an image, got list_iterator"),
    (batch(zeros(2, 3), [2]), "boxes.xyxy", "must have the shape [M, 4], got [2, 3]"),
    (batch(zeros(4), [1]), "boxes.xyxy", "must have the shape [M, 4], got [4]"),
    (batch(torch.zeros(1, 1, 4), [1]), "boxes.xyxy", "must have the shape [M, 4], got [1, 1, 4]"),
    (batch([["a"] * 4], [1]), "boxes.xyxy", NUMBERS),
    (batch(zeros(2, 4), np.ma.masked_less([1, 2], 2)), "boxes.counts", "has masked values"),
    (batch(zeros(2, 4), [1]), "boxes.counts", "add up to 1, but there are 2 boxes"),
    (batch(zeros(2, 4), [1, 2]), "boxes.counts", "add up to 3, but there are 2 boxes"),
    (batch(zeros(2, 4), []), "boxes.counts", "add up to 0, but there are 2 boxes"),
    (batch(zeros(2, 4), [3, -1]), "boxes.counts[1]", "is negative"),
    (batch(zeros(2, 4), [2.0]), "boxes.counts", "must be a list of whole numbers"),
    (batch(zeros(2, 4), [[2]]), "boxes.counts", "must be a list of whole numbers"),
    (batch(zeros(2, 4), 2), "boxes.counts", "must be a list of whole numbers"),
    (batch(zeros(1, 4), [True]), "boxes.counts", "must be a list of whole numbers"),
    (batch(zeros(2, 4), ["2"]), "boxes.counts", "must be a list of whole numbers"),
    (batch(zeros(2, 4), [[1], [1, 2]]), "boxes.counts", "must be a list of whole numbers"),
    (batch(np.array([GOOD, [5, 1, 4, 5]]), [0, 1, 1]), "boxes[2][0].x2", SMALLER.format("x")),
]  # fmt: skip

RANGE = "must be two whole numbers from 1 to 2147483647, got "
SIZE_FORM = "must be (H, W), or one (H, W) for each image"
MAP_FORM = "must be (h, w), two whole numbers"

GRID: list[Row] = [
    (sized(np.ma.masked_less([[8, 8], [4, 8]], 8)), "image_size", "has masked values"),
    (sized((0, 8)), "image_size", f"{RANGE}(0, 8)"),
    (sized((8, 0)), "image_size", f"{RANGE}(8, 0)"),
    (sized((-8, 8)), "image_size", f"{RANGE}(-8, 8)"),
    (sized((8, 8.5)), "image_size", f"{RANGE}(8, 8.5)"),
    (sized((8, NAN)), "image_size", f"{RANGE}(8, nan)"),
    (sized((INF, 8)), "image_size", f"{RANGE}(inf, 8)"),
    (sized((8, True)), "image_size", f"{RANGE}(8, True)"),
    (sized((2**31, 8)), "image_size", f"{RANGE}(2147483648, 8)"),
    (sized(np.array([0, 8])), "image_size", f"{RANGE}(0, 8)"),
    (sized(torch.tensor([8, -1])), "image_size", f"{RANGE}(8, -1)"),
    (sized(("8", "8")), "image_size", SIZE_FORM),
    (sized([(10**400, 8), (8, 8)]), "image_size", SIZE_FORM),
    (sized([(8, 8), (8, 0)]), "image_size[1]", f"{RANGE}(8, 0)"),
    (sized([(8.5, 8), (8, 8)]), "image_size[0]", f"{RANGE}(8.5, 8)"),
    (sized([(8, 8), (NAN, 8)]), "image_size[1]", f"{RANGE}(nan, 8)"),
    (sized([(8, 8), (8, 2.0**31)]), "image_size[1]", f"{RANGE}(8, 2147483648)"),
    (sized(torch.tensor([[8, 8], [-1, 8]])), "image_size[1]", f"{RANGE}(-1, 8)"),
    (sized(np.array([[8, 8], [8, 0]])), "image_size[1]", f"{RANGE}(8, 0)"),
    (sized([(8, 8)] * 3), "image_size", "has 3 entries, but there are 2 images"),
    (sized([(8, 8)]), "image_size", "has 1 entries, but there are 2 images"),
    (sized([]), "image_size", SIZE_FORM),
    (sized(8), "image_size", SIZE_FORM),
    (sized(None), "image_size", SIZE_FORM),
    (sized("88"), "image_size", SIZE_FORM),
    (sized((8, 8, 3)), "image_size", SIZE_FORM),
    (sized([(8, 8), (8,)]), "image_size", SIZE_FORM),
    (sized([(8, 8, 3), (8, 8, 3)]), "image_size", SIZE_FORM),
    (sized([("a", "b"), ("c", "d")]), "image_size", SIZE_FORM),
    (sized([("8", "8"), ("8", "8")]), "image_size", SIZE_FORM),
    (sized([(True, True), (True, True)]), "image_size", SIZE_FORM),
    (mapped((0, 4)), "feature_map", f"{RANGE}(0, 4)"),
    (mapped((4, -4)), "feature_map", f"{RANGE}(4, -4)"),
    (mapped((4, 4.5)), "feature_map", f"{RANGE}(4, 4.5)"),
    (mapped((True, 4)), "feature_map", f"{RANGE}(True, 4)"),
    (mapped((4, 2**31)), "feature_map", f"{RANGE}(4, 2147483648)"),
    (mapped((4, None)), "feature_map", f"{RANGE}(4, None)"),
    (mapped([(4, 4), (4, 0)]), "feature_map[1]", f"{RANGE}(4, 0)"),
    (mapped([(4, 4), (4, 4, 4)]), "feature_map[1]", MAP_FORM),
    (mapped([(4, 4), 4, 4]), "feature_map[1]", MAP_FORM),
    (mapped((4, 4, 4)), "feature_map[0]", MAP_FORM),
    (mapped(torch.tensor([4, 4, 4])), "feature_map[0]", MAP_FORM),
    (mapped(4), "feature_map", "must be (h, w), or a list of them"),
    (mapped(None), "feature_map", "must be (h, w), or a list of them"),
    (mapped("44"), "feature_map", "must be (h, w), or a list of them"),
]  # fmt: skip

WHOLE = "must be a whole number from 1 to 2147483647, got "
AT_LEAST_0 = "must be a finite number at least 0, got "
ABOVE_0 = "must be a finite number above 0, got "

SPECS: list[Row] = [
    *(
        (mask(patch_size=value), "mask_spec.patch_size", f"{WHOLE}{value!r}")
        for value in (0, -1, 2**31, 4.0, 4.5, True, "4", None, NAN)
    ),
    *(
        (mask(**{name: value}), f"mask_spec.{name}", f"{AT_LEAST_0}{value!r}")
        for name in ("expansion_ratio", "min_size", "small_target_threshold", "min_radius")
        for value in (-0.1, NAN, INF, True, "1", None)
    ),
    *(
        (mask(**{name: value}), f"mask_spec.{name}", f"{ABOVE_0}{value!r}")
        for name in (
            "small_target_gain", "size_reference", "size_factor_min", "size_factor_max",
            "base_sigma",
        )
        for value in (0, -0.5, NAN, -INF, False, "1", None)
    ),
    *(
        (mask(**{name: value}), f"mask_spec.{name}", f"must be True or False, got {value!r}")
        for name in ("use_anisotropic_gaussian", "use_subpixel_offset")
        for value in (0, 1, "True", None)
    ),
    (mask(decay_type="box"), "mask_spec.decay_type",
     "must be one of gaussian, linear, got 'box'"),
    (mask(decay_type=None), "mask_spec.decay_type", "must be one of gaussian, linear, got None"),
    (mask(temperature="Fixed"), "mask_spec.temperature",
     "must be one of fixed, size_scaled, small_gain, got 'Fixed'"),
    (mask(merge="mean"), "mask_spec.merge", "must be one of max, sum, clipped_sum, got 'mean'"),
    (mask(merge=["max"]), "mask_spec.merge",
     "must be one of max, sum, clipped_sum, got ['max']"),
    (mask(size_factor_min=2.5), "mask_spec.size_factor_max",
     "is smaller than size_factor_min (2.5)"),
    (mask(size_factor_max=0.25), "mask_spec.size_factor_max",
     "is smaller than size_factor_min (0.5)"),
    (mask(base_sigma=(0.5, 0)), "mask_spec.base_sigma", f"{ABOVE_0}0"),
    (mask(base_sigma=(NAN, 0.5)), "mask_spec.base_sigma", f"{ABOVE_0}nan"),
    (mask(base_sigma=[True, 0.5]), "mask_spec.base_sigma", f"{ABOVE_0}True"),
    (mask(base_sigma=(0.5,)), "mask_spec.base_sigma",
     "must be one number or a pair (x, y), got (0.5,)"),
    (mask(base_sigma=[1, 2, 3]), "mask_spec.base_sigma",
     "must be one number or a pair (x, y), got [1, 2, 3]"),
    (mask(base_sigma=(0.4, 0.5), use_anisotropic_gaussian=False), "mask_spec.base_sigma",
     "must be one number where use_anisotropic_gaussian is False"),
    (lambda: MaskSpec().replace(patch_size=0), "mask_spec.patch_size", f"{WHOLE}0"),
    (lambda: MaskSpec.baseline().replace(base_sigma=(1, 2)), "mask_spec.base_sigma",
     "must be one number where use_anisotropic_gaussian is False"),
    (lossy(kind="l1"), "loss_spec.kind",
     "must be one of mse, bce, focal, cornernet, quality_focal, varifocal, soft_focal, got 'l1'"),
    (lossy(kind=0), "loss_spec.kind",
     "must be one of mse, bce, focal, cornernet, quality_focal, varifocal, soft_focal, got 0"),
    (lossy(reduction="avg"), "loss_spec.reduction",
     "must be one of none, mean, sum, per_object, got 'avg'"),
    (lossy(reduction=None), "loss_spec.reduction",
     "must be one of none, mean, sum, per_object, got None"),
    *(
        (lossy(**{name: value}), f"loss_spec.{name}", f"{AT_LEAST_0}{value!r}")
        for name in ("alpha", "beta", "gamma", "weight")
        for value in (-1, NAN, INF, True, "2", None)
    ),
    (lambda: LossSpec().replace(alpha=-1), "loss_spec.alpha", f"{AT_LEAST_0}-1"),
]  # fmt: skip


def made(spec: Any = MaskSpec(), as_torch: bool = False, **options: Any) -> Call:  # noqa: B008
    """A mask of one box."""
    kind: Any = torch.tensor if as_torch else np.array
    return lambda: generate_mask([kind([GOOD])], (8, 8), (4, 4), spec, **options)


DTYPES = "must be one of float32, float16, bfloat16, uint8, got "
SUM = MaskSpec(merge="sum")

MASKS: list[Row] = [
    (made(LossSpec()), "mask_spec", "must be a MaskSpec, got LossSpec"),
    (made({"patch_size": 4}), "mask_spec", "must be a MaskSpec, got dict"),
    (made(None), "mask_spec", "must be a MaskSpec, got NoneType"),
    (made(dtype="float64"), "dtype", f"{DTYPES}'float64'"),
    (made(dtype="nothing"), "dtype", f"{DTYPES}'nothing'"),
    (made(dtype=np.float64), "dtype", f"{DTYPES}{np.float64!r}"),
    (made(dtype=torch.float64), "dtype", f"{DTYPES}torch.float64"),
    (made(dtype=torch.int8), "dtype", f"{DTYPES}torch.int8"),
    (made(dtype=None), "dtype", f"{DTYPES}None"),
    (made(dtype=3), "dtype", f"{DTYPES}3"),
    (made(dtype="bfloat16"), "dtype", "bfloat16 needs boxes given as torch tensors"),
    (made(SUM, dtype="uint8"), "dtype",
     "uint8 needs a mask_spec.merge that stays in [0, 1]: max or clipped_sum"),
    (made(SUM, as_torch=True, dtype=torch.uint8), "dtype",
     "uint8 needs a mask_spec.merge that stays in [0, 1]: max or clipped_sum"),
    (made(SUM, return_owner=True), "return_owner", "needs mask_spec.merge max"),
    *((made(return_owner=value), "return_owner", f"must be True or False, got {value!r}")
      for value in ("False", "0", 0, 1, None)),
    (made(MaskSpec(merge="clipped_sum"), return_owner=True), "return_owner",
     "needs mask_spec.merge max"),
]  # fmt: skip

REAL = "must have a dtype of float32, float16, bfloat16, float64, got "
TARGETS = "must have a dtype of float32, float16, bfloat16, float64, uint8, got "
PER_OBJECT = LossSpec(reduction="per_object")
KIND = "must be of the same kind (NumPy or torch) as the logits"
MASK_INPUTS = MaskInputs.check([[GOOD, GOOD]], (8, 8), (4, 4), MaskSpec(), "float32", False)


def inside_and(value: float) -> Any:
    """A target of [2, 3, 4] whose [1][0][2] alone is this value."""
    target = np.full((2, 3, 4), 0.5, np.float32)
    target[1, 0, 2] = value
    return target


LOSSES: list[Row] = [
    (loss(zeros(2, 3), zeros(2, 3), MaskSpec()), "loss_spec", "must be a LossSpec, got MaskSpec"),
    (loss(zeros(2, 3), zeros(2, 3), "bce"), "loss_spec", "must be a LossSpec, got str"),
    (lambda: CassLoss("improved"), "mask_spec", "must be a MaskSpec, got str"),
    (lambda: CassLoss(LossSpec()), "mask_spec", "must be a MaskSpec, got LossSpec"),
    (lambda: CassLoss(MaskSpec(), "bce"), "loss_spec", "must be a LossSpec, got str"),
    (lambda: MaskLoss(MaskSpec()), "loss_spec", "must be a LossSpec, got MaskSpec"),
    (loss(zeros(2, 3, dtype=int), zeros(2, 3)), "logits", f"{REAL}int64"),
    (loss([[0, 1]], zeros(1, 2)), "logits", f"{REAL}int64"),
    (loss(zeros(2, 3, dtype=np.uint8), zeros(2, 3)), "logits", f"{REAL}uint8"),
    (loss(zeros(2, 3, dtype=complex), zeros(2, 3)), "logits", f"{REAL}complex128"),
    (loss(zeros(2, 3, dtype=bool), zeros(2, 3)), "logits", f"{REAL}bool"),
    (loss(torch.zeros(2, 3, dtype=torch.int32), torch.zeros(2, 3)), "logits", f"{REAL}int32"),
    (loss("logits", zeros(2, 3)), "logits", "must be an array of numbers"),
    (loss(None, zeros(2, 3)), "logits", "must be an array of numbers"),
    (loss([[0.0], [1.0, 2.0]], zeros(2, 3)), "logits", "must be an array of numbers"),
    (loss(0.5, 0.5), "logits", "must have at least one dimension"),
    (loss(torch.tensor(0.5), torch.tensor(0.5)), "logits", "must have at least one dimension"),
    (loss(torch.zeros(2, 3).to_sparse(), torch.zeros(2, 3)), "logits",
     "must be dense, got torch.sparse_coo"),
    (loss(torch.zeros(2, 3), torch.zeros(2, 3).to_sparse()), "target",
     "must be dense, got torch.sparse_coo"),
    (lambda: MaskLoss()(torch.zeros(2, 3), torch.zeros(2, 3).to_sparse()), "target",
     "must be dense, got torch.sparse_coo"),
    (loss(np.ma.masked_less(zeros(2, 3), 1), zeros(2, 3)), "logits", "has masked values"),
    (loss(zeros(2, 3), np.ma.masked_less(zeros(2, 3), 1)), "target", "has masked values"),
    (loss(zeros(2, 3), zeros(2, 3, dtype=int)), "target", f"{TARGETS}int64"),
    (loss(zeros(2, 3), zeros(2, 3, dtype=bool)), "target", f"{TARGETS}bool"),
    (loss(torch.zeros(2), torch.zeros(2, dtype=torch.int8)), "target", f"{TARGETS}int8"),
    (loss(zeros(2, 3), 0.5), "target", "must have at least one dimension"),
    (loss(zeros(2, 1), [[0.5], [0.5, 0.5]]), "target", "must be an array of numbers"),
    (loss(zeros(2, 3), torch.zeros(2, 3)), "target", KIND),
    (loss(torch.zeros(2, 3), zeros(2, 3)), "target", KIND),
    (loss(torch.zeros(2, 3), torch.zeros(2, 3, device="meta")), "target",
     "is on meta, the logits on cpu"),
    (loss(zeros(2, 3), zeros(3, 2)), "target", "has the shape [3, 2], the logits have [2, 3]"),
    (loss(zeros(2, 12), zeros(2, 3, 5)), "target",
     "has the shape [2, 3, 5], the logits have [2, 12]"),
    (loss(zeros(2, 3, 4), zeros(24)), "target", "has the shape [24], the logits have [2, 3, 4]"),
    (loss(zeros(24), zeros(2, 12)), "target", "has the shape [2, 12], the logits have [24]"),
    (loss(zeros(2, 3, 4), zeros(1, 24)), "target",
     "has the shape [1, 24], the logits have [2, 3, 4]"),
    (loss(zeros(1, 2, 3, 4), zeros(1, 24)), "target",
     "has the shape [1, 24], the logits have [1, 2, 3, 4]"),
    (loss(zeros(2, 3, 4), zeros(2, 4, 3)), "target",
     "has the shape [2, 4, 3], the logits have [2, 3, 4]"),
    (loss(zeros(2, 3, 4), inside_and(1.5)), "target[1][0][2]", "is not in [0, 1] (1.5)"),
    (loss(zeros(2, 3, 4), inside_and(-0.25)), "target[1][0][2]", "is not in [0, 1] (-0.25)"),
    (loss(zeros(2, 3, 4), inside_and(NAN)), "target[1][0][2]", "is not in [0, 1] (nan)"),
    (loss(zeros(2, 3, 4), inside_and(-INF)), "target[1][0][2]", "is not in [0, 1] (-inf)"),
    (loss(zeros(2, 12), inside_and(2)), "target[1][0][2]", "is not in [0, 1] (2.0)"),
    (loss(zeros(2, 3, 4), inside_and(2).reshape(2, 12)), "target[1][2]", "is not in [0, 1] (2.0)"),
    (loss(zeros(2, 3, 4), inside_and(2).astype(np.float16)), "target[1][0][2]",
     "is not in [0, 1] (2.0)"),
    (loss(torch.zeros(2, 3, 4), torch.tensor(inside_and(2)).to(torch.bfloat16)),
     "target[1][0][2]", "is not in [0, 1] (2.0)"),
    (loss(zeros(2, 3, 4, dtype=np.float64), inside_and(2).astype(np.float64)), "target[1][0][2]",
     "is not in [0, 1] (2.0)"),
    (loss(zeros(2000), np.repeat(np.float32([0, 3]), [1500, 500])), "target[1500]",
     "is not in [0, 1] (3.0)"),
    (loss(zeros(2, 3), zeros(2, 3), PER_OBJECT), "num_boxes",
     "is needed for loss_spec.reduction per_object"),
    *(
        (loss(zeros(2, 3), zeros(2, 3), spec, value), "num_boxes",
         f"must be a number of at least 0, got {value!r}")
        for spec in (PER_OBJECT, LossSpec())
        for value in (-1, -0.5, NAN, INF, True, "3", [3])
    ),
    *((lambda value=value: compute_loss(zeros(1), zeros(1), return_grad=value), "return_grad",
       f"must be True or False, got {value!r}") for value in ("False", 1, None)),
    (lambda: LossInputs.check(zeros(1, 1), None, LossSpec(), None, False), "target",
     "give either a target or boxes"),
    (lambda: LossInputs.check(zeros(1, 1), zeros(1, 1), LossSpec(), None, False, MASK_INPUTS),
     "target", "give either a target or boxes"),
    (lambda: LossInputs.check(zeros(2, 1), None, LossSpec(), None, False, MASK_INPUTS), "logits",
     "have the shape [2, 1], the grid is [1, 4, 4] or [1, 16]: feature_map (4, 4) with "
     "mask_spec.patch_size 1; these would fit mask_spec.patch_size 4"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "field", "reason"), [*BOXES, *GRID, *SPECS, *MASKS, *LOSSES])
def test_refused(call: Call, field: str, reason: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        call()
    assert (caught.value.field, caught.value.reason) == (field, reason)
    assert str(caught.value) == f"{field}: {reason}"


def test_invalid_request() -> None:
    error = InvalidRequest("boxes[3][1].x2", "is smaller than x1")
    assert isinstance(error, ValueError)
    assert isinstance(error, CassError)
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is InvalidRequest
    assert (again.field, again.reason, str(again)) == (
        "boxes[3][1].x2", "is smaller than x1", "boxes[3][1].x2: is smaller than x1",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (MaskSpec(), "patch_size"),
        (LossSpec(), "kind"),
        (BoxBatch.from_list([]), "xyxy"),
        (BoxBatch.from_list([]), "offsets"),
        (compute_loss(zeros(1), zeros(1)), "loss"),
    ],
)
def test_frozen(value: Any, name: str) -> None:
    before = getattr(value, name)
    with pytest.raises(FrozenInstanceError):
        setattr(value, name, 1)
    assert getattr(value, name) is before
    assert not hasattr(value, "__dict__")


def test_specs_are_values() -> None:
    assert MaskSpec(patch_size=2) == MaskSpec(patch_size=2) != MaskSpec()
    assert len({MaskSpec(), MaskSpec(), MaskSpec(base_sigma=[0.5, 1]), LossSpec(), LossSpec()}) == 3
    assert pickle.loads(pickle.dumps(MaskSpec.baseline())) == MaskSpec.baseline()
    assert MaskSpec(base_sigma=[0.5, 1]).base_sigma == (0.5, 1.0)
    assert MaskSpec(base_sigma=(0.4, 0.8)).sigma_xy == (0.4, 0.8)
    assert MaskSpec(base_sigma=0.4).sigma_xy == (0.4, 0.4)


def test_replace_changes_just_what_it_names() -> None:
    changed = MaskSpec.baseline().replace(patch_size=2, merge="sum")
    assert asdict(changed) == asdict(MaskSpec.baseline()) | {"patch_size": 2, "merge": "sum"}
    assert asdict(LossSpec().replace(gamma=3)) == asdict(LossSpec()) | {"gamma": 3.0}
    with pytest.raises(TypeError):
        MaskSpec().replace(nothing=1)


def test_numpy_scalars_become_plain_python() -> None:
    spec = MaskSpec(
        patch_size=np.int64(2),  # type: ignore[arg-type]
        expansion_ratio=np.float32(0.25),  # type: ignore[arg-type]
        min_size=np.int32(2),  # type: ignore[arg-type]
        base_sigma=(np.float64(0.5), np.float32(0.25)),  # type: ignore[arg-type]
        use_anisotropic_gaussian=np.bool_(True),  # type: ignore[arg-type]
        use_subpixel_offset=np.bool_(False),  # type: ignore[arg-type]
        min_radius=0,
    )
    found = asdict(spec)
    assert type(found["patch_size"]) is int
    assert type(found["use_subpixel_offset"]) is type(found["use_anisotropic_gaussian"]) is bool
    for name in ("expansion_ratio", "min_size", "min_radius"):
        assert type(found[name]) is float
    assert [type(value) for value in found["base_sigma"]] == [float, float]
    assert spec == MaskSpec(
        patch_size=2, expansion_ratio=0.25, min_size=2, base_sigma=(0.5, 0.25),
        use_subpixel_offset=False, min_radius=0,
    )  # fmt: skip
    alpha = LossSpec(alpha=np.float16(1.5)).alpha  # type: ignore[arg-type]
    assert (type(alpha), alpha) == (float, 1.5)


def test_dtypes_by_every_name() -> None:
    for dtype in ("float16", np.float16, np.dtype("float16"), torch.float16, "half"):
        assert generate_mask([[GOOD]], (8, 8), (4, 4), dtype=dtype).dtype == np.float16


def test_sizes_by_every_form() -> None:
    expected = generate_mask([[GOOD], []], (8, 12), (4, 4))
    for size in [
        [8, 12],
        (8.0, 12.0),
        np.array([8, 12]),
        torch.tensor([8, 12]),
        (np.int64(8), torch.tensor(12)),
        [(8, 12), (8, 12)],
        np.array([[8, 12], [8, 12]], np.int32),
        torch.tensor([[8, 12], [8, 12]]),
        [torch.tensor([8, 12]), np.array([8, 12])],
    ]:
        np.testing.assert_array_equal(generate_mask([[GOOD], []], size, (4, 4)), expected)


def test_tensors_that_are_negated_lazily() -> None:
    boxes, size = ([[1, 2, 5, 6]], [[8, 8]])
    lazy = [(torch.tensor(v, dtype=torch.float32) * -1j).conj().imag for v in (boxes, size)]
    assert lazy[0].is_neg()
    found = generate_mask([lazy[0]], lazy[1], (4, 4))
    assert found.tolist() == generate_mask([boxes], size, (4, 4)).tolist()


def test_maps_by_every_form() -> None:
    for feature_map in [[4, 6], np.array([4, 6]), torch.tensor([4, 6]), (4.0, np.int64(6))]:
        assert generate_mask([[GOOD]], (8, 8), feature_map, MaskSpec(patch_size=1)).shape == (
            1, 4, 6,
        )  # fmt: skip
    several = generate_mask([[GOOD]], (8, 8), np.array([[4, 6], [1, 2]]), MaskSpec(patch_size=1))
    assert [m.shape for m in several] == [(1, 4, 6), (1, 1, 2)]
    assert generate_mask([[GOOD]], (8, 8), []) == []


def test_maps_that_no_memory_holds() -> None:
    largest = 2**31 - 1
    spec = MaskSpec(patch_size=1)
    with pytest.raises(InvalidRequest) as caught:
        generate_mask([], (8, 8), [(1, 1), (largest, largest)], spec)
    assert str(caught.value) == (
        "feature_map[1]: (2147483647, 2147483647) is too large for this batch"
    )
    assert generate_mask([], (8, 8), (2**29, largest), spec).shape == (0, 2**29, largest)
