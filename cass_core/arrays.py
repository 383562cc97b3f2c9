"""NumPy and torch at the edge: what comes in decides what goes out.

Inside, the CPU path works on NumPy arrays with a dtype *name*: NumPy has no bfloat16, so such
data travels as its uint16 bits next to the name ``"bfloat16"``. torch is never imported here
before a caller has handed over a tensor.
"""

from __future__ import annotations

import contextlib
import functools
import sys
from typing import TYPE_CHECKING, Any, TypeAlias, TypeGuard

import numpy as np
import numpy.typing as npt

from cass_core.errors import InvalidRequest

if TYPE_CHECKING:
    import torch

Array: TypeAlias = npt.NDArray[Any]
Tensorlike: TypeAlias = "Array | torch.Tensor"

MASK_DTYPES = ("float32", "float16", "bfloat16", "uint8")
"""What a mask can be made as."""
LOGIT_DTYPES = ("float32", "float16", "bfloat16", "float64")
"""What logits can be given as."""
TARGET_DTYPES = ("float32", "float16", "bfloat16", "float64", "uint8")
"""What a target can be given as; uint8 stands for value / 255."""


def is_tensor(value: object) -> TypeGuard[torch.Tensor]:
    """Whether the value is a torch tensor, found out without importing torch."""
    torch_module = sys.modules.get("torch")
    return torch_module is not None and isinstance(value, torch_module.Tensor)


def dtype_name(dtype: object, field: str, choices: tuple[str, ...]) -> str:
    """The plain name of a dtype given as a name, a NumPy dtype or a torch dtype.

    Raises:
        InvalidRequest: the dtype is not among the choices.

    Example:
        >>> dtype_name(np.float16, "dtype", MASK_DTYPES)
        'float16'
    """
    if isinstance(dtype, str) and dtype in choices:
        return dtype
    name = str(dtype).removeprefix("torch.")
    if name not in choices:
        with contextlib.suppress(TypeError):
            name = np.dtype(dtype).name  # type: ignore[call-overload]
    if name not in choices:
        raise InvalidRequest(field, f"must be one of {', '.join(choices)}, got {dtype!r}")
    return name


_STORAGE = {
    name: np.dtype("uint16" if name == "bfloat16" else name)
    for name in ("float32", "float16", "bfloat16", "float64", "uint8")
}


def storage_dtype(name: str) -> np.dtype[Any]:
    """The NumPy dtype that holds data of this name (bfloat16 as its bits)."""
    return _STORAGE[name]


def to_host(value: Tensorlike) -> tuple[Array, str]:
    """A tensor or an array as an array and the name of its dtype; from the CPU without a copy."""
    if is_tensor(value):
        import torch

        host = value.detach().cpu().resolve_neg()
        if host.dtype == torch.bfloat16:
            return host.view(torch.int16).numpy().view(np.uint16), "bfloat16"
        return host.numpy(), str(host.dtype).removeprefix("torch.")
    array = np.asarray(value)
    return array, _name_of(array.dtype)


# NumPy puts the name together anew each time, for some 3 µs.
@functools.lru_cache(maxsize=32)
def _name_of(dtype: np.dtype[Any]) -> str:
    return dtype.name


def from_host(array: Array, name: str, *, as_tensor: bool) -> Tensorlike:
    """The inverse of `to_host`; without a copy."""
    if not as_tensor:
        return array
    import torch

    if name == "bfloat16":
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def read_only(array: Array) -> Array:
    """The array, or a view of it that cannot be written to.

    What a request brings lies in immutable bytes, and numba compiles a kernel anew for
    arguments that differ in this alone: so all inputs of kernels are given like that.
    """
    if not array.flags.writeable:
        return array
    view = array.view()
    view.flags.writeable = False
    return view


def corners(boxes: torch.Tensor, field: str) -> torch.Tensor:
    """A tensor's boxes ``[..., 4]`` as x1, y1, x2, y2; as they are where it names no format."""
    import torch

    # As torchvision's `BoundingBoxes` do; seen by the attribute and not by the class, since callers
    # may have others like it.
    name = _format_of(boxes)
    plain = boxes.detach().as_subclass(torch.Tensor)
    if name in ("", "XYXY"):
        return plain
    if name not in ("XYWH", "CXCYWH"):
        raise InvalidRequest(field, f"must be of the format XYXY, XYWH or CXCYWH, got {name}")
    if plain.ndim == 0 or plain.shape[-1] != 4:
        return plain  # refused by its shape
    start, size = plain[..., :2].double(), plain[..., 2:].double()
    if name == "CXCYWH":
        start = start - size / 2
    return torch.cat([start, start + size], dim=-1)


def _format_of(boxes: torch.Tensor) -> str:
    found = getattr(boxes, "format", None)
    return str(getattr(found, "name", found) or "").upper()
