"""generate_mask: soft target masks on the patch grid, from ground-truth boxes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cass_core.arrays import is_tensor
from cass_core.boxes import BoxBatch
from cass_core.cpu.backend import compute_masks
from cass_core.inputs import MaskInputs
from cass_core.results import arrange_masks, wrap_masks
from cass_core.specs import MaskSpec, WeightSpec


def generate_mask(
    boxes: BoxBatch | Sequence[Any],
    image_size: Any,
    feature_map: Any,
    spec: MaskSpec = MaskSpec(),  # noqa: B008 - frozen
    *,
    weight_spec: WeightSpec | None = None,
    valid_region: Any = None,
    ignore: BoxBatch | Sequence[Any] | None = None,
    box_weights: Any = None,
    return_owner: bool = False,
    return_weights: bool = False,
    dtype: Any = "float32",
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
        weight_spec: the options of the weights; None is ``WeightSpec()``. This and the next three
            change the weights alone, never the mask.
        valid_region: ``[B, 4]``, where the picture is in an image that is padded to `image_size`:
            x1, y1, x2, y2 in pixels. Patches with their centre outside weigh 0.
        ignore: boxes of each image, as `boxes`: regions whose background nobody vouches for.
            Patches with their centre in one, and in no core of a box, weigh 0.
        box_weights: finite numbers of at least 0, as a list with one entry ``[N_i]`` an image, or
            one array ``[M]`` for all of them (``merge="max"`` only).
        return_owner: also return which box gave each patch its value (``merge="max"`` only).
        return_weights: also return what each patch weighs in a loss; see `compute_loss`.
        dtype: ``float32``, ``float16``, ``bfloat16`` (torch only) or ``uint8``
            (round(255 value); not with ``merge="sum"``).

    Returns:
        The mask ``[B, n_y, n_x]`` with n_y = ceil(h / p), n_x = ceil(w / p), p being
        ``spec.patch_size``; flattened row-major it has the shape of the predictor's logits.
        Values lie in [0, 1], except with ``merge="sum"``. With `return_owner` or
        `return_weights` a tuple of the mask and, in this order, the owners, an int32 map of the
        same shape: the index of the box within its image, the first of equals, -1 where the value
        is 0; and the weights, likewise in float32. For a list of feature maps, lists of these.
        NumPy arrays for NumPy boxes or lists, torch tensors on the boxes' device for tensors.

    Raises:
        InvalidRequest: an argument cannot be used; it is named.

    Example:
        >>> import numpy as np
        >>> box = np.array([[8.0, 8.0, 24.0, 24.0]])
        >>> generate_mask([box], (32, 32), (4, 4))[0].round(2)
        array([[0.64, 0.8 , 0.8 , 0.64],
               [0.8 , 1.  , 1.  , 0.8 ],
               [0.8 , 1.  , 1.  , 0.8 ],
               [0.64, 0.8 , 0.8 , 0.64]], dtype=float32)
    """
    inputs = MaskInputs.check(boxes, image_size, feature_map, spec, dtype, return_owner)
    # A chain of comparisons costs those who do without next to nothing.
    if not (
        return_weights is False and weight_spec is valid_region is ignore is box_weights is None
    ):
        given = weight_spec, valid_region, ignore, box_weights
        inputs = inputs.with_weights(return_weights, *given)
    xyxy = inputs.boxes.xyxy
    if is_tensor(xyxy) and xyxy.device.type == "cuda":
        from cass_core.ops.backend import make_masks

        return arrange_masks(inputs, *make_masks(inputs, xyxy.device))
    return wrap_masks(inputs, *compute_masks(inputs))
