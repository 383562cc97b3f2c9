"""MaskTargets: masks for batches that are collated already, in a worker or in a loop."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from typing import Any

from cass_client.torch.requests import MaskRequests
from cass_core.errors import InvalidRequest

_MOST_AHEAD = 1024


class MaskTargets(MaskRequests):
    """Adds masks to a batch that is collated already: after MixUp, mosaic, padding and resizing.

    These batches are understood, with boxes in all forms that `MaskCollate` takes:

    - (images, targets, ...): images as one tensor ``[B, C, H, W]``, as an object with such
      ``tensors`` and perhaps a ``mask`` of the padding, like DETR's ``NestedTensor``, or as a list;
      targets as a list with one entry an image;
    - a dict with images under ``image``, ``images``, ``pixel_values``, ``img`` or ``inputs``, and
      targets under ``targets``, Hugging Face's ``labels``, mmdet's ``data_samples`` or the key
      `boxes`; a ``pixel_mask`` says what is padding;
    - ultralytics' dict, with the ``bboxes`` of all images in one row and their ``batch_idx``;
    - a list of samples, each a dict, as detectron2 has it;
    - any other with a function for `boxes`.

    The size of an image is what the batch has, with its padding. Normalised boxes are shares of the
    picture without padding where the batch says where that is, unless the target's ``size`` is the
    whole image's, as Hugging Face's processors leave it. Masks are in the host's memory.

    With weights, what is no single object is ignored and padding weighs 0, as for `MaskCollate`.
    Padding is what a ``pixel_mask`` or the images' ``mask`` says, or else what is beyond the
    ``image_sizes`` of torchvision's ``ImageList``, mmdet's ``img_shape``, detectron2's
    ``image_size``, the canvas of torchvision's boxes, or a target's ``size`` beside boxes in
    pixels.

    Args:
        client: makes the masks.
        feature_map: as for `MaskCollate`.
        spec: how masks are made.
        strides: as for `MaskCollate`; so is all that follows.
        dtype: of the masks.
        boxes: key of the boxes in a target or in the batch; or a function from a batch to a list
            with the boxes of each image and their sizes, (H, W) for each, and perhaps regions.
        image: key of the images in a dict.
        key: key of the masks.
        into: ``batch`` or ``targets``.
        box_format: of boxes that do not say it.
        normalized: whether such boxes are shares of their image.
        weight_spec: what a patch weighs.
        return_weights: whether weights come beside the masks.
        ignore_crowds: whether crowds and ignored objects are ignored regions.
        ignore_padding: whether padding weighs 0.
        weights_key: key of the weights.

    Raises:
        InvalidRequest: an argument cannot be used; it is named.

    Example:
        >>> import torch
        >>> from cass_client import CassClient
        >>> add_masks = MaskTargets(
        ...     CassClient("local:"), strides=(8, 16), box_format="cxcywh", normalized=True
        ... )
        >>> batch = torch.zeros(1, 3, 32, 40), [{"boxes": torch.tensor([[0.5, 0.5, 0.5, 0.25]])}]
        >>> images, targets, masks = add_masks(batch)
        >>> [mask.shape for mask in masks]
        [torch.Size([1, 4, 5]), torch.Size([1, 2, 3])]
        >>> len(list(add_masks.wrap([batch] * 3)))
        3
    """

    def __call__(self, batch: Any) -> Any:
        """The batch with its masks; dicts are copied, so that the given batch stays as it is.

        Raises:
            InvalidRequest: the batch has no such boxes or images; the image's position is named.
            CassError: the server could not answer; see `CassClient.generate_mask`.
        """
        return self.place(batch, self.of_batch(batch).result())

    def wrap(self, loader: Iterable[Any], ahead: int = 2) -> MaskLoader:
        """A loader whose batches have masks, which are made while the loop works.

        Args:
            loader: gives batches, again in each epoch.
            ahead: how many batches are read from it ahead of the loop, 0 to 1024.

        Raises:
            InvalidRequest: ``ahead`` is out of its range.
        """
        return MaskLoader(self, loader, ahead)


class MaskLoader:
    """A loader whose batches have masks; made by `MaskTargets.wrap`.

    Its length and all other attributes are those of the loader. An iteration that is given up
    cancels the requests that it has ahead; an error of the loader or of a batch comes after all
    batches before it.
    """

    def __init__(self, requests: MaskRequests, loader: Iterable[Any], ahead: int) -> None:
        if not isinstance(ahead, int) or isinstance(ahead, bool) or not 0 <= ahead <= _MOST_AHEAD:
            raise InvalidRequest(
                "ahead", f"must be a whole number from 0 to {_MOST_AHEAD}, got {ahead!r}"
            )
        self._requests, self._loader, self._ahead = requests, loader, ahead

    def __iter__(self) -> Iterator[Any]:
        pending: deque[tuple[Any, Future[Any]]] = deque()
        source = ((batch, self._requests.of_batch(batch)) for batch in self._loader)
        try:
            while True:
                try:
                    pending.append(next(source))
                except StopIteration:
                    break
                except Exception:
                    # Those before it are good, and a loop without masks would have had them.
                    while pending:
                        yield self._next(pending)
                    raise
                if len(pending) > self._ahead:
                    yield self._next(pending)
            while pending:
                yield self._next(pending)
        finally:
            for _, future in pending:
                future.cancel()

    def _next(self, pending: deque[tuple[Any, Future[Any]]]) -> Any:
        batch, future = pending.popleft()
        return self._requests.place(batch, future.result())

    def __len__(self) -> int:
        return len(self._loader)  # type: ignore[arg-type]

    def __getattr__(self, name: str) -> Any:
        loader = self.__dict__.get("_loader")
        if loader is None or name.startswith("__"):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return getattr(loader, name)
