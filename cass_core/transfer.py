"""Host arrays to a device's memory without making the host wait."""

from __future__ import annotations

from typing import Any

import torch

from cass_core.arrays import Array
from cass_core.errors import CassError, InvalidRequest


def upload(array: Array, device: torch.device) -> torch.Tensor:
    """A copy on the device; on CUDA through pinned memory, in the order of the current stream."""
    # torch warns of arrays that cannot be written to, such as views of a request's bytes.
    host = torch.from_numpy(array if array.flags.writeable else array.copy())
    if device.type != "cuda":
        return host.to(device)
    if torch.cuda.is_current_stream_capturing():
        raise CassError(
            "a CUDA graph is being captured: move boxes and image sizes to the device before "
            "(BoxBatch.to) and keep them as long as the graph"
        )
    return host.pin_memory().to(device, non_blocking=True)


def sizes_on_device(value: Any, num_images: int) -> torch.Tensor | None:
    """Image sizes that already lie in CUDA memory as ``[B, 2]`` float64; None if they do not.

    Their values are not checked: reading them would make the host wait.
    """
    if isinstance(value, list | tuple) and any(_is_on_cuda(entry) for entry in value):
        # One small tensor an image, as in DETR's `orig_size`.
        value = torch.stack([torch.as_tensor(entry) for entry in value])
    if not _is_on_cuda(value):
        return None
    sizes: torch.Tensor = value.detach()
    if sizes.shape == (2,):
        sizes = sizes.expand(num_images, 2)
    if sizes.shape != (num_images, 2):
        raise InvalidRequest(
            "image_size", f"must have the shape [2] or [{num_images}, 2], got {list(sizes.shape)}"
        )
    return sizes.to(torch.float64).contiguous()


def _is_on_cuda(value: object) -> bool:
    return isinstance(value, torch.Tensor) and value.device.type == "cuda"
