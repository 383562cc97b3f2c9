"""MaskCollate: a DataLoader's `collate_fn` that adds soft target masks to the batch."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils.data import default_collate, get_worker_info

from cass import malloc
from cass_client.arguments import loader_inputs
from cass_client.client import CassClient, check_client
from cass_client.notices import warn_without_patch
from cass_client.torch.targets import boxes_and_size
from cass_core.boxes import BoxBatch
from cass_core.errors import InvalidRequest
from cass_core.specs import MaskSpec, check_flag


class MaskCollate:
    """Collates samples and adds the masks of their boxes, by one request a batch.

    For ``DataLoader(collate_fn=...)``, with any number of workers however they are started: it
    pickles with its client, and each worker opens a connection of its own.

    These samples are understood:

    - a dict with an image and boxes, xyxy in pixels;
    - a tuple that begins with image and target; the target is a dict with such boxes, as
      torchvision's detection sets and transforms give it, or the boxes themselves;
    - with a list of COCO annotations in place of the boxes (their ``bbox`` is x, y, width, height),
      as torchvision's ``CocoDetection`` gives it;
    - any other with a function for ``boxes``.

    Crowd regions (``iscrowd``: 1) and ignored objects (``ignore``: 1) are left out, so that their
    patches are background, which a warning says once a process. COCO annotations have a flag each;
    beside boxes, ``iscrowd`` and ``ignore`` are one flag for each box.

    The size of an image is read from the image as the sample has it, so after augmentation. A
    tensor is CHW (or HW), a NumPy array HWC (or HW), and one that looks like the other (such as a
    tensor of the shape [480, 640, 3]) is refused; a PIL image knows its size. If `collate_fn` pads
    images, the size must be that of the padded one: give a function for ``boxes``.

    Without `collate_fn`, images of tensors or arrays are stacked, and plain numbers and text are
    collated as torch does it. All else (boxes, labels, targets, PIL images), whose length may
    differ from image to image, becomes a list with one entry a sample.

    Args:
        client: makes the masks.
        feature_map: (h, w) in cells, or a list of them for several levels.
        spec: how masks are made.
        dtype: of the masks: ``float32``, ``float16``, ``bfloat16`` or ``uint8``, as a name or as a
            torch dtype.
        boxes: key of the boxes in a dict sample or in a target; or a function from a sample to its
            boxes (``[N, 4]`` xyxy in pixels) and the size of its image, (H, W) in pixels. It is
            pickled where workers are spawned, so not a lambda then.
        image: key of the image in a dict sample.
        key: key of the masks in a dict batch.
        collate_fn: makes the batch of a list of samples, a dict, a tuple or a list.
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
        >>> collate = MaskCollate(CassClient("local:"), (4, 4))
        >>> images, targets, masks = next(iter(DataLoader(samples, 2, collate_fn=collate)))
        >>> images.shape, len(targets), masks.shape, masks[0, 1].tolist()[1]
        (torch.Size([2, 3, 32, 32]), 2, torch.Size([2, 4, 4]), 1.0)
    """

    def __init__(
        self,
        client: CassClient,
        feature_map: Any,
        spec: MaskSpec = MaskSpec(),  # noqa: B008 - frozen
        *,
        dtype: Any = "float32",
        boxes: str | Callable[[Any], tuple[Any, Any]] = "boxes",
        image: str = "image",
        key: str = "masks",
        collate_fn: Callable[[Sequence[Any]], Any] | None = None,
        keep_memory: bool = True,
    ) -> None:
        # Found out here, not by each worker.
        inputs = loader_inputs(_pack([None]), None, feature_map, spec, dtype)
        self._client = check_client(client)
        self._feature_map = inputs.maps[0] if inputs.single else inputs.maps
        self._spec = spec
        self._dtype = inputs.dtype
        self._boxes = boxes
        self._image = image
        self._key = key
        self._collate_fn = collate_fn
        self._keep_memory = check_flag(keep_memory, "keep_memory")

    def __call__(self, samples: Sequence[Any]) -> Any:
        """The batch of these samples, with their masks.

        Returns:
            What `collate_fn` makes of them; a dict with the masks under `key`, a tuple or a list
            with the masks as a further element. The masks are a tensor ``[B, n_y, n_x]``, for a
            list of feature maps a list of such; see `cass_core.generate_mask`.

        Raises:
            InvalidRequest: a sample has no such boxes or image, named by its position in the batch
                (``boxes[3]``, ``image_size[3]``), or the batch is no dict, tuple or list. From a
                worker, DataLoader raises a RuntimeError with its text.
            CassError: the server could not answer; see `CassClient.generate_mask`.
        """
        if self._keep_memory and get_worker_info() is not None:
            _keep_memory()
        found = [self._read(sample, position) for position, sample in enumerate(samples)]
        # On their way while `collate_fn` works; it may change samples in place.
        boxes, sizes = _pack([boxes for boxes, _ in found]), [size for _, size in found]
        future = self._client.generate_mask_future(
            boxes, sizes, self._feature_map, self._spec, dtype=self._dtype
        )
        warn_without_patch(boxes, sizes, self._feature_map, self._spec)
        batch = self._collate(samples)
        masks = future.result()
        if type(batch) is tuple:
            return (*batch, masks)
        if isinstance(batch, list):
            return [*batch, masks]
        batch[self._key] = masks
        return batch

    def _read(self, sample: Any, position: int) -> tuple[Any, Any]:
        if isinstance(self._boxes, str):
            return boxes_and_size(sample, position, self._boxes, self._image)
        found = self._boxes(sample)
        if not (isinstance(found, tuple | list) and len(found) == 2):
            raise InvalidRequest(
                f"boxes[{position}]",
                f"the function must give boxes and (H, W), got {type(found).__name__}",
            )
        return found[0], found[1]

    def _collate(self, samples: Sequence[Any]) -> Any:
        """A tuple, a list, or a dict that has no masks yet."""
        if self._collate_fn is None:
            if not samples:
                raise InvalidRequest("collate_fn", "is needed for a batch without samples")
            batch = _collate(samples, self._image)
        else:
            batch = self._collate_fn(samples)
        if isinstance(batch, MutableMapping):
            if self._key in batch:
                raise InvalidRequest("key", f"the batch has a {self._key!r} already")
        elif type(batch) not in (tuple, list):  # one with names would lose them
            raise InvalidRequest(
                "collate_fn", f"must give a dict, a tuple or a list, got {type(batch).__name__}"
            )
        return batch


# Once in a process: what it sets stays, in those that are forked from it too.
_keep_memory = functools.cache(malloc.keep_memory)


def _pack(boxes: Sequence[Any]) -> BoxBatch:
    """Boxes as a tensor: masks come as what their boxes are."""
    return BoxBatch.from_list(boxes).to("cpu")


def _collate(samples: Sequence[Any], image: str) -> Any:
    """The batch where the user has no way of his own."""
    first = samples[0]
    if isinstance(first, Mapping):
        return {key: _column([s[key] for s in samples], key == image) for key in first}
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
