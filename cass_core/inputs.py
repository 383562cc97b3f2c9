"""MaskInputs and LossInputs: the checked arguments of a mask or a loss; what a request carries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from cass_core.arrays import (
    MASK_DTYPES,
    Array,
    dtype_name,
    is_tensor,
    to_host,
)
from cass_core.boxes import BoxBatch
from cass_core.checks.logits import (
    check_grid,
    check_logits,
    check_loss_weights,
    check_same_patches,
    check_target,
    warn_of_ones,
)
from cass_core.checks.plausible import check_plausible
from cass_core.checks.weighting import Weighting
from cass_core.errors import InvalidRequest
from cass_core.grid import FeatureMap, Sizes, feature_maps, image_sizes, patch_grid
from cass_core.specs import LossSpec, MaskSpec, WeightSpec, check_flag, normalizer_of

if TYPE_CHECKING:
    import torch

_MAX_PATCHES = 2**60


@dataclass(frozen=True, slots=True)
class MaskInputs:
    """The checked arguments of one `generate_mask`.

    Attributes:
        boxes: the boxes of B images.
        sizes: ``[1 or B, 2]`` float64, height and width of the images in pixels; a tensor where
            they came beside the boxes in CUDA memory.
        maps: (h, w) of each feature map, in cells.
        single: whether one feature map was requested rather than a list.
        spec: the options.
        dtype: name of the masks' dtype.
        return_owner: whether owner maps are requested.
        weighting: what the patches' weights are made from; None where no weights are requested.
    """

    boxes: BoxBatch
    sizes: Sizes | torch.Tensor
    maps: list[FeatureMap]
    single: bool
    spec: MaskSpec
    dtype: str
    return_owner: bool
    weighting: Weighting | None = None

    @classmethod
    def check(
        cls,
        boxes: BoxBatch | Sequence[Any],
        image_size: Any,
        feature_map: Any,
        spec: MaskSpec,
        dtype: Any,
        return_owner: bool,
    ) -> MaskInputs:
        """Check the arguments of `generate_mask`, which names the errors, but for the weights'."""
        check_spec(spec, MaskSpec)
        batch = BoxBatch.wrap(boxes)
        arguments = image_size, feature_map, spec, dtype, return_owner
        if type(batch.xyxy) is np.ndarray and tuple(map(_kind, arguments)) == _PLAIN:
            inputs = cls(batch, *_checked(batch.num_images, *arguments))
        else:
            inputs = cls(batch, *_check(batch, *arguments))
        check_plausible(batch, inputs.sizes, inputs.maps)
        return inputs

    def with_weights(self, return_weights: bool, *given: Any) -> MaskInputs:
        """These, with weights if they are requested; what they are made from is checked anyway."""
        if return_weights is False and all(value is None for value in given):
            return self
        weighted = self.weighted(*given)
        return weighted if check_flag(return_weights, "return_weights") else self

    def weighted(
        self,
        weight_spec: WeightSpec | None,
        valid_region: Any,
        ignore: BoxBatch | Sequence[Any] | None,
        box_weights: Any,
    ) -> MaskInputs:
        """These with the weights that the other arguments of `generate_mask` describe."""
        given = weight_spec, valid_region, ignore, box_weights
        weighting = Weighting.check(self.boxes, self.spec, *given)
        # As dataclasses.replace does it, in a fifth of the time.
        options = self.maps, self.single, self.spec, self.dtype, self.return_owner
        return MaskInputs(self.boxes, self.sizes, *options, weighting)

    def shapes(self) -> list[tuple[int, int, int]]:
        """``(B, n_y, n_x)`` of the mask of each feature map."""
        images, patch_size = self.boxes.num_images, self.spec.patch_size
        return [(images, *patch_grid(feature_map, patch_size)) for feature_map in self.maps]


def _check(
    boxes: BoxBatch,
    image_size: Any,
    feature_map: Any,
    spec: MaskSpec,
    dtype: Any,
    return_owner: bool,
) -> tuple[Any, ...]:
    """The fields of `MaskInputs` after the boxes."""
    maps, single = feature_maps(feature_map)
    name = dtype_name(dtype, "dtype", MASK_DTYPES)
    owner = check_flag(return_owner, "return_owner")
    if name == "bfloat16" and not is_tensor(boxes.xyxy):
        raise InvalidRequest("dtype", "bfloat16 needs boxes given as torch tensors")
    sizes = check_sizes(image_size, boxes)
    check_options(boxes.num_images, maps, single, spec, name, owner)
    return sizes, maps, single, spec, name, owner


# In a quarter of the time, where all but NumPy's boxes has been checked before.
@lru_cache(maxsize=256)
def _checked(num_images: int, *arguments: Any) -> tuple[Any, ...]:
    return _check(BoxBatch.packed(np.empty((0, 4), np.float32), [0] * num_images), *arguments)


def _kind(value: Any) -> Any:
    """The type, of a pair with those of its two: 1 is not True, though they are equal."""
    return (tuple, *map(type, value)) if type(value) is tuple else type(value)


_PAIR = (tuple, int, int)
_PLAIN = (_PAIR, _PAIR, MaskSpec, str, bool)


def check_options(
    num_images: int,
    maps: Sequence[FeatureMap],
    single: bool,
    spec: MaskSpec,
    dtype: str,
    return_owner: bool,
) -> None:
    """Check what concerns several options at once; see `MaskInputs`."""
    if return_owner and spec.merge != "max":
        raise InvalidRequest("return_owner", "needs mask_spec.merge max")
    if dtype == "uint8" and spec.merge == "sum":
        raise InvalidRequest(
            "dtype", "uint8 needs a mask_spec.merge that stays in [0, 1]: max or clipped_sum"
        )
    check_ranges(spec.num_ranges, maps)
    for i, feature_map in enumerate(maps):
        # NumPy can describe no larger array, not even one of no images.
        rows, columns = patch_grid(feature_map, spec.patch_size)
        if max(1, num_images) * rows * columns > _MAX_PATCHES:
            name = "feature_map" if single else f"feature_map[{i}]"
            raise InvalidRequest(name, f"{feature_map} is too large for this batch")


def check_ranges(ranges: int | None, maps: Sequence[FeatureMap]) -> None:
    """Rejects a number of level ranges, if there are any, that is not that of the feature maps."""
    if ranges is not None and ranges != len(maps):
        raise InvalidRequest(
            "mask_spec.level_ranges",
            f"has {ranges} entries, but there are {len(maps)} feature maps",
        )


def check_sizes(value: Any, boxes: BoxBatch) -> Sizes | torch.Tensor:
    """Image sizes where the boxes are: in CUDA memory only if both came there."""
    if is_tensor(boxes.xyxy) and boxes.xyxy.device.type == "cuda":
        from cass_core.transfer import sizes_on_device

        sizes = sizes_on_device(value, boxes.num_images)
        if sizes is not None:
            return sizes
    return image_sizes(value, boxes.num_images)


@dataclass(frozen=True, slots=True)
class LossInputs:
    """The checked arguments of one loss, in host arrays.

    Attributes:
        logits: an array (bfloat16 as bits).
        logits_dtype: the name of its dtype.
        target: an array of as many patches, or None where the target is made from boxes.
        target_dtype: the name of its dtype.
        mask: what the target is made from, where there is none; it has one feature map.
        spec: the options.
        num_boxes: normaliser of ``per_object``.
        return_grad: whether the gradient is requested.
        weights: float32 of as many patches as the target, or None; of ``mask`` they come from its
            own weighting.
    """

    logits: Array
    logits_dtype: str
    target: Array | None
    target_dtype: str
    mask: MaskInputs | None
    spec: LossSpec
    num_boxes: float | None
    return_grad: bool
    weights: Array | None = None

    @classmethod
    def check(
        cls,
        logits: Any,
        target: Any,
        spec: LossSpec,
        num_boxes: float | None,
        return_grad: bool,
        mask: MaskInputs | None = None,
        weights: Any = None,
    ) -> LossInputs:
        """Check the arguments of a loss against a target, or, if that is None, from boxes."""
        check_spec(spec)
        logits = check_logits(logits)
        host_logits, logits_dtype = to_host(logits)
        host_target, target_dtype = None, ""
        if target is not None:
            host_target, target_dtype = to_host(check_target(target, logits))
            warn_of_ones(host_target, "target")
        host = host_logits, logits_dtype, host_target, target_dtype
        if weights is not None:
            weights, _ = to_host(check_loss_weights(weights, logits))
        return cls.checked(*host, mask, spec, num_boxes, return_grad, weights)

    @classmethod
    def checked(
        cls,
        logits: Array,
        logits_dtype: str,
        target: Array | None,
        target_dtype: str,
        mask: MaskInputs | None,
        spec: LossSpec,
        num_boxes: float | None,
        return_grad: bool,
        weights: Array | None = None,
    ) -> LossInputs:
        """Check what concerns several arguments at once, the rest being good already."""
        if (target is None) == (mask is None):
            raise InvalidRequest("target", "give either a target or boxes")
        if target is not None:
            check_same_patches(logits.shape, target.shape)
        if weights is not None:
            if target is None:
                raise InvalidRequest("weights", "are made from boxes, so give them with a target")
            check_same_patches(logits.shape, weights.shape, "weights")
        if mask is not None:
            images, patch_size = mask.boxes.num_images, mask.spec.patch_size
            check_grid(logits.shape, images, mask.maps[0], patch_size)
            if num_boxes is None:
                num_boxes = mask.boxes.num_boxes
        normalizer_of(spec, logits.size, num_boxes)
        wanted = check_flag(return_grad, "return_grad")
        options = mask, spec, num_boxes, wanted, weights
        return cls(logits, logits_dtype, target, target_dtype, *options)


def check_spec(
    spec: Any, kind: type[MaskSpec] | type[LossSpec] | type[WeightSpec] = LossSpec
) -> None:
    """Rejects what is no spec of this kind."""
    if not isinstance(spec, kind):
        field = f"{kind.__name__.removesuffix('Spec').lower()}_spec"
        raise InvalidRequest(field, f"must be a {kind.__name__}, got {type(spec).__name__}")
