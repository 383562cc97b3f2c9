"""generate_mask: soft target masks on the patch grid, from ground-truth boxes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import numpy as np

from cass_core.arrays import (
    MASK_DTYPES,
    Array,
    Tensorlike,
    dtype_name,
    from_host,
    is_tensor,
    storage_dtype,
    to_host,
)
from cass_core.boxes import BoxBatch
from cass_core.errors import InvalidRequest
from cass_core.grid import FeatureMap, Sizes, feature_maps, image_sizes, patch_grid
from cass_core.specs import MaskSpec

if TYPE_CHECKING:
    import torch

_MAX_PATCHES = 2**60
FillSmall: TypeAlias = Callable[[Array, Array, Sequence[Array]], None]
"""Fills float32 masks, one a feature map, for read-only boxes in the host's memory and offsets."""
THREAD_PATCHES = 1 << 18
"""What is worth a thread of its own: some 100 µs of work, where handing it over takes 20."""
SHORT_WORK = 1 << 24
"""Patches that boxes reach in some 10 ms, after which a long computation may be ended."""


@dataclass(frozen=True, slots=True)
class MaskInputs:
    """The checked arguments of one `generate_mask`; what a request carries.

    Attributes:
        boxes: the boxes of B images.
        sizes: ``[1 or B, 2]`` float64, height and width of the images in pixels; a tensor where
            they came beside the boxes in CUDA memory.
        maps: (h, w) of each feature map, in cells.
        single: whether one feature map was asked for rather than a list.
        spec: the options.
        dtype: name of the masks' dtype.
        return_owner: whether owner maps are asked for.
    """

    boxes: BoxBatch
    sizes: Sizes | torch.Tensor
    maps: list[FeatureMap]
    single: bool
    spec: MaskSpec
    dtype: str
    return_owner: bool

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
        """Check the arguments of `generate_mask`, which names the errors."""
        if not isinstance(spec, MaskSpec):
            raise InvalidRequest("mask_spec", f"must be a MaskSpec, got {type(spec).__name__}")
        batch = BoxBatch.wrap(boxes)
        maps, single = feature_maps(feature_map)
        name = dtype_name(dtype, "dtype", MASK_DTYPES)
        if name == "bfloat16" and not is_tensor(batch.xyxy):
            raise InvalidRequest("dtype", "bfloat16 needs boxes given as torch tensors")
        sizes = check_sizes(image_size, batch)
        return cls.checked(batch, sizes, maps, single, spec, name, return_owner)

    @classmethod
    def checked(
        cls,
        boxes: BoxBatch,
        sizes: Sizes | torch.Tensor,
        maps: list[FeatureMap],
        single: bool,
        spec: MaskSpec,
        dtype: str,
        return_owner: bool,
    ) -> MaskInputs:
        """Check what concerns several arguments at once, the rest being good already."""
        check_options(boxes.num_images, maps, single, spec, dtype, return_owner)
        return cls(boxes, sizes, maps, single, spec, dtype, bool(return_owner))

    def most_boxes(self) -> int:
        """With up to so many, this takes no threads, checkpoints or scratch; -1 if always some."""
        patches = sum(images * rows * columns for images, rows, columns in self.shapes())
        if self.dtype != "float32" or self.return_owner or not 0 < patches < THREAD_PATCHES:
            return -1
        return self.boxes.num_images * SHORT_WORK // patches

    def shapes(self) -> list[tuple[int, int, int]]:
        """``(B, n_y, n_x)`` of the mask of each feature map."""
        images, patch_size = self.boxes.num_images, self.spec.patch_size
        return [(images, *patch_grid(feature_map, patch_size)) for feature_map in self.maps]


def check_options(
    num_images: int,
    maps: Sequence[FeatureMap],
    single: bool,
    spec: MaskSpec,
    dtype: str,
    return_owner: bool,
) -> None:
    """Check what concerns several options at once; see `MaskInputs`.

    Raises:
        InvalidRequest: two of them do not go together, or the answer would be too large.
    """
    if return_owner and spec.merge != "max":
        raise InvalidRequest("return_owner", "needs mask_spec.merge max")
    if dtype == "uint8" and spec.merge == "sum":
        raise InvalidRequest(
            "dtype", "uint8 needs a mask_spec.merge that stays in [0, 1]: max or clipped_sum"
        )
    for i, feature_map in enumerate(maps):
        # NumPy can describe no larger array, not even one of no images.
        rows, columns = patch_grid(feature_map, spec.patch_size)
        if max(1, num_images) * rows * columns > _MAX_PATCHES:
            name = "feature_map" if single else f"feature_map[{i}]"
            raise InvalidRequest(name, f"{feature_map} is too large for this batch")


def check_sizes(value: Any, boxes: BoxBatch) -> Sizes | torch.Tensor:
    """Image sizes where the boxes are: in CUDA memory only if both came there.

    Raises:
        InvalidRequest: see `cass_core.grid.image_sizes`.
    """
    if is_tensor(boxes.xyxy) and boxes.xyxy.device.type == "cuda":
        from cass_core.transfer import sizes_on_device

        sizes = sizes_on_device(value, boxes.num_images)
        if sizes is not None:
            return sizes
    return image_sizes(value, boxes.num_images)


def compute_masks(
    inputs: MaskInputs, checkpoint: Callable[[], None] | None = None
) -> tuple[list[Array], list[Array]]:
    """Masks and owner maps (empty unless asked for) of each feature map, on the CPU.

    In a long computation ``checkpoint`` is called between images; what it raises ends it.
    """
    shapes = inputs.shapes()
    dtype = storage_dtype(inputs.dtype)
    masks = [np.empty(shape, dtype) for shape in shapes]
    owners = [np.empty(shape, np.int32) for shape in shapes] if inputs.return_owner else []
    fill_masks(inputs, masks, owners, checkpoint)
    return masks, owners


def fill_masks(
    inputs: MaskInputs,
    masks: Sequence[Array],
    owners: Sequence[Array],
    checkpoint: Callable[[], None] | None = None,
) -> None:
    """As `compute_masks`, into arrays of the caller's."""
    from cass_core.cpu.run import fill_mask

    boxes, sizes = inputs.boxes, inputs.sizes
    if is_tensor(boxes.xyxy) and boxes.xyxy.device.type != "cpu":
        boxes = BoxBatch(boxes.xyxy.cpu(), boxes.counts)  # whose values are checked now
    if not isinstance(sizes, np.ndarray):
        sizes = to_host(sizes)[0]
    for i, feature_map in enumerate(inputs.maps):
        owner = owners[i] if inputs.return_owner else None
        fill_mask(boxes, sizes, feature_map, inputs.spec, inputs.dtype, masks[i], owner, checkpoint)


def wrap_masks(inputs: MaskInputs, masks: Sequence[Array], owners: Sequence[Array]) -> Any:
    """Host arrays in the form that `generate_mask` returns for these inputs."""
    if not is_tensor(inputs.boxes.xyxy):
        return _arrange(inputs, masks, owners)
    device = inputs.boxes.xyxy.device

    def place(array: Array, name: str) -> Tensorlike:
        return cast("torch.Tensor", from_host(array, name, as_tensor=True)).to(device)

    return _arrange(
        inputs,
        [place(mask, inputs.dtype) for mask in masks],
        [place(owner, "int32") for owner in owners],
    )


def _arrange(inputs: MaskInputs, masks: Sequence[Any], owners: Sequence[Any]) -> Any:
    """One mask or a list, alone or in a pair with the owners."""
    if not inputs.return_owner:
        return masks[0] if inputs.single else masks
    return (masks[0], owners[0]) if inputs.single else (masks, owners)


def generate_mask(
    boxes: BoxBatch | Sequence[Any],
    image_size: Any,
    feature_map: Any,
    spec: MaskSpec = MaskSpec(),  # noqa: B008 - frozen
    *,
    dtype: Any = "float32",
    return_owner: bool = False,
) -> Any:
    """Make the soft target mask of a batch of images.

    A patch is 1 on an object, falls off over a band of context around it and is 0 elsewhere.
    A box that lies wholly outside its image marks nothing but the context that reaches in.

    Args:
        boxes: a `BoxBatch`, or a list with one entry an image: ``[N_i, 4]`` x1, y1, x2, y2 in
            pixels, as a NumPy array, a torch tensor or nested lists; None or empty for an image
            without boxes.
        image_size: (H, W) in pixels, one for all images or one for each.
        feature_map: (h, w) in cells, or a list of them for several levels.
        spec: the options; see `MaskSpec`.
        dtype: ``float32``, ``float16``, ``bfloat16`` (torch only) or ``uint8``
            (round(255 value); not with ``merge="sum"``).
        return_owner: also return which box gave each patch its value (``merge="max"`` only).

    Returns:
        The mask ``[B, n_y, n_x]`` with n_y = ceil(h / p), n_x = ceil(w / p), p being
        ``spec.patch_size``; flattened row-major it has the shape of the predictor's logits.
        Values lie in [0, 1], except with ``merge="sum"``. With `return_owner` a pair of the mask
        and an int32 map of the same shape: the index of the box within its image, the first of
        equals, -1 where the value is 0. For a list of feature maps, lists of these. NumPy arrays
        for NumPy boxes or lists, torch tensors on the boxes' device for tensors.

    Raises:
        InvalidRequest: an argument cannot be used; it is named.

    Example:
        >>> import numpy as np
        >>> box = np.array([[8.0, 8.0, 24.0, 24.0]])
        >>> generate_mask([box], (32, 32), (4, 4), MaskSpec(patch_size=1))[0].round(2)
        array([[0.64, 0.8 , 0.8 , 0.64],
               [0.8 , 1.  , 1.  , 0.8 ],
               [0.8 , 1.  , 1.  , 0.8 ],
               [0.64, 0.8 , 0.8 , 0.64]], dtype=float32)
    """
    inputs = MaskInputs.check(boxes, image_size, feature_map, spec, dtype, return_owner)
    xyxy = inputs.boxes.xyxy
    if is_tensor(xyxy) and xyxy.device.type == "cuda":
        from cass_core.ops.run import make_masks

        return _arrange(inputs, *make_masks(inputs, xyxy.device))
    return wrap_masks(inputs, *compute_masks(inputs))
