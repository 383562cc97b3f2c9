"""MaskCollate: a DataLoader's `collate_fn` that adds soft target masks to the batch."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils.data import default_collate, get_worker_info

from cass import malloc
from cass_client.boxes import BoxFormat
from cass_client.client import CassClient
from cass_client.torch.placement import Into
from cass_client.torch.requests import MaskRequests
from cass_client.torch.targets.images import IMAGE_KEYS
from cass_core.errors import InvalidRequest
from cass_core.specs import MaskSpec, WeightSpec, check_flag


class MaskCollate:
    """Collates samples and adds the masks of their boxes, by one request a batch.

    For ``DataLoader(collate_fn=...)``, with any number of workers however they are started: it
    pickles with its client, and each worker opens a connection of its own.

    These samples are understood:

    - a dict with an image (``image``, ``pixel_values``, ``img`` or ``inputs``) and boxes;
    - a tuple that begins with image and target; the target is a dict with boxes, as torchvision's
      detection sets and transforms give it, or the boxes themselves;
    - with a list of COCO annotations in place of the boxes (their ``bbox`` is x, y, width, height),
      as torchvision's ``CocoDetection`` gives it, or a dict with such ``annotations``;
    - with an object of a library that has boxes: ``Detections`` of supervision, ``Instances`` and
      ``Boxes`` of detectron2, ``InstanceData`` and ``DetDataSample`` of mmengine and mmdet;
    - Hugging Face's, whose ``labels`` have ``class_labels`` and normalised ``boxes``, and
      ultralytics', which have ``bboxes`` and ``batch_idx``, as cxcywh unless `box_format` says
      otherwise;
    - any other with a function for ``boxes``.

    Boxes of torchvision say their format themselves, and so do annotations and those libraries;
    plain arrays, tensors and lists are xyxy in pixels unless `box_format` and `normalized` say
    otherwise. A batch is refused if all its boxes lie within [0, 1], or many far outside their
    images.

    Crowds (``iscrowd``: 1), ignored objects (``ignore``: 1) and mmdet's ``ignored_instances`` have
    no part in masks. COCO annotations have a flag each; beside boxes, ``iscrowd`` and ``ignore``
    are one flag for each box.

    With `return_weights` or a `weight_spec` the patches' weights come beside the masks, for
    ``cass_core.MaskLoss()(logits, masks, weights=weights)``: crowds and the like are then ignored
    regions, and padding weighs 0, where a ``pixel_mask`` says that there is some, or a size in the
    sample of before its padding, such as the canvas of torchvision's boxes. Without weights both
    are background, which a warning says once a process.

    The size of an image is read from the image as the sample has it, so after augmentation. A
    tensor is CHW (or HW), a NumPy array HWC (or HW), and one that looks like the other (such as a
    tensor of the shape [480, 640, 3]) is refused; a PIL image knows its size. If `collate_fn` pads,
    resizes or mixes images, set ``after=True``: boxes and size are then read from the batch that it
    makes, in the forms of `MaskTargets`.

    Without `collate_fn`, images of tensors or arrays are stacked, and plain numbers and text are
    collated as torch does it. All else (boxes, labels, targets, PIL images), whose length may
    differ from image to image, becomes a list with one entry a sample.

    Attributes of `collate_fn`, such as a ``set_epoch`` that a training loop calls, are this
    object's too.

    Args:
        client: makes the masks.
        feature_map: (h, w) in cells, or a list of them for several levels; or a function from the
            size (H, W) of a batch's images to these.
        spec: how masks are made.
        strides: instead of feature maps, a stride or a list of them: the map of an image of H x W
            pixels is (ceil(H / stride), ceil(W / stride)).
        dtype: of the masks: ``float32``, ``float16``, ``bfloat16`` or ``uint8``, as a name or as a
            torch dtype.
        boxes: key of the boxes in a dict sample or in a target; or a function from a sample (after
            `collate_fn`, from a batch) to boxes (``[N, 4]``; of a batch a list of such) and image
            size, (H, W) in pixels, and if need be a dict with ``ignore`` (boxes in the same form)
            and ``valid_region`` (x1, y1, x2, y2 in pixels; of a batch a list). It is pickled where
            workers are spawned, so not a lambda then.
        image: key of the image in a dict sample.
        key: key of the masks in a dict batch, or in targets.
        into: ``batch``: the masks are under `key` in a dict, a further element of a tuple or list;
            ``targets``: each image's target dict has its own, ``[n_y, n_x]``, under `key`, or of
            several levels under ``{key}_0``, ``{key}_1`` and so on. Weights go after the masks.
        box_format: of boxes that do not say it: ``xyxy`` (by default), ``xywh`` or ``cxcywh``.
        normalized: whether such boxes are shares of their image's width and height; False says
            that they are pixels, however they look.
        weight_spec: what a patch weighs, as for `cass_core.generate_mask`; asks for weights.
        return_weights: asks for weights too, by default of ``WeightSpec()``.
        ignore_crowds: whether crowds and ignored objects are ignored regions; False has them
            background, without a warning.
        ignore_padding: whether padding weighs 0; False likewise.
        weights_key: key of the weights, where `key` is the masks'.
        collate_fn: makes the batch of a list of samples, a dict, a tuple or a list.
        after: whether boxes are read from the batch, after `collate_fn`.
        keep_memory: whether a worker process, never the main one, keeps the memory that it frees;
            see `cass_client.keep_memory`, which says what that costs.

    Raises:
        InvalidRequest: an argument cannot be used; it is named.

    Example:
        >>> import torch
        >>> from torch.utils.data import DataLoader
        >>> from cass_client import CassClient
        >>> target = {"boxes": torch.tensor([[8.0, 8.0, 24.0, 24.0]]), "labels": torch.tensor([1])}
        >>> samples = [(torch.zeros(3, 32, 32), target)] * 4
        >>> collate = MaskCollate(CassClient("local:"), strides=8)
        >>> images, targets, masks = next(iter(DataLoader(samples, 2, collate_fn=collate)))
        >>> images.shape, len(targets), masks.shape, masks[0, 1].tolist()[1]
        (torch.Size([2, 3, 32, 32]), 2, torch.Size([2, 4, 4]), 1.0)
    """

    def __init__(
        self,
        client: CassClient,
        feature_map: Any = None,
        spec: MaskSpec = MaskSpec(),  # noqa: B008 - frozen
        *,
        strides: int | Sequence[int] | None = None,
        dtype: Any = "float32",
        boxes: str | Callable[[Any], tuple[Any, ...]] = "boxes",
        image: str = "image",
        key: str = "masks",
        into: Into = "batch",
        box_format: BoxFormat | None = None,
        normalized: bool | None = None,
        weight_spec: WeightSpec | None = None,
        return_weights: bool = False,
        ignore_crowds: bool = True,
        ignore_padding: bool = True,
        weights_key: str = "weights",
        collate_fn: Callable[[Sequence[Any]], Any] | None = None,
        after: bool = False,
        keep_memory: bool = True,
    ) -> None:
        self._requests = MaskRequests(
            client, feature_map, spec, strides=strides, dtype=dtype, boxes=boxes, image=image,
            key=key, into=into, box_format=box_format, normalized=normalized,
            weight_spec=weight_spec, return_weights=return_weights, ignore_crowds=ignore_crowds,
            ignore_padding=ignore_padding, weights_key=weights_key,
        )  # fmt: skip
        self._image = image
        self._collate_fn = collate_fn
        self._after = check_flag(after, "after")
        self._keep_memory = check_flag(keep_memory, "keep_memory")

    def __call__(self, samples: Sequence[Any]) -> Any:
        """The batch of these samples, with their masks.

        Returns:
            What `collate_fn` makes of them; a dict with the masks under `key`, a tuple or a list
            with the masks as a further element, or with the masks in its targets. The masks are a
            tensor ``[B, n_y, n_x]``, for a list of feature maps a list of such; see
            `cass_core.generate_mask`. Weights, in float32, are of the same shapes.

        Raises:
            InvalidRequest: a sample has no such boxes or image, named by its position in the batch
                (``boxes[3]``, ``image_size[3]``), or the batch is no dict, tuple or list. From a
                worker, DataLoader raises a RuntimeError with its text.
            CassError: the server could not answer; see `CassClient.generate_mask`.
        """
        if self._keep_memory and get_worker_info() is not None:
            _keep_memory()
        # On their way while `collate_fn` works; it may change samples in place.
        future = None if self._after else self._requests.of_samples(samples)
        batch = self._collate(samples)
        future = future or self._requests.of_batch(batch)
        return self._requests.place(batch, future.result())

    def _collate(self, samples: Sequence[Any]) -> Any:
        """A tuple, a list, or a dict that has no masks yet."""
        if self._collate_fn is None:
            if not samples:
                raise InvalidRequest("collate_fn", "is needed for a batch without samples")
            batch = _collate(samples, self._image)
        else:
            batch = self._collate_fn(samples)
        self._requests.check_place(batch)
        return batch

    def __getattr__(self, name: str) -> Any:
        """An attribute of `collate_fn`; pickle asks before there is any."""
        collate_fn = self.__dict__.get("_collate_fn")
        if collate_fn is None or name.startswith("__"):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return getattr(collate_fn, name)

    def __repr__(self) -> str:
        return f"MaskCollate({self._requests.shown()}, collate_fn={self._collate_fn!r})"


# Once in a process: what it sets stays, in those that are forked from it too.
_keep_memory = functools.cache(malloc.keep_memory)


def _collate(samples: Sequence[Any], image: str) -> Any:
    """The batch where the user has no way of his own."""
    first = samples[0]
    if isinstance(first, Mapping):
        keys = IMAGE_KEYS if image == "image" else (image,)
        return {key: _column([s[key] for s in samples], key in keys) for key in first}
    if isinstance(first, tuple | list):
        columns = enumerate(zip(*samples, strict=True))
        return tuple(_column(column, i == 0) for i, column in columns)
    raise InvalidRequest("collate_fn", f"is needed for samples of {type(first).__name__}")


def _column(values: Sequence[Any], images: bool) -> Any:
    """Stacked images; plain values as torch collates them; a list of anything else."""
    first = values[0]
    if isinstance(first, Tensor | np.ndarray | np.generic):
        stacked = images or first.ndim == 0
    else:
        stacked = isinstance(first, int | float | str | bytes)
    if not stacked:
        return list(values)
    shapes = {str(list(value.shape)) for value in values if images}
    if len(shapes) > 1:
        raise InvalidRequest(
            "collate_fn",
            f"is needed for images that differ in shape: {', '.join(sorted(shapes))}",
        )
    return default_collate(list(values))
