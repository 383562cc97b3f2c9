"""The torch operators ``cass::masks``, ``cass::loss`` and ``cass::boxes_loss``.

On CUDA they launch the Triton kernels, anywhere else they go through the compiled CPU loops. They
take tensors and plain numbers, have fake kernels and a gradient, and so work under torch.compile,
autocast and CUDA graphs.
"""

from __future__ import annotations

from functools import partial
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from cass_core.arrays import from_host, to_host
from cass_core.boxes import BoxBatch
from cass_core.cpu.backend import compute_losses, compute_masks
from cass_core.errors import CassError
from cass_core.grid import patch_grid
from cass_core.inputs import LossInputs, MaskInputs, check_options
from cass_core.ops.spec_args import loss_spec, mask_spec

_LOSS = "int[] choices, float[] numbers, float normalizer, ScalarType? grad_dtype"
_BOXES = "Tensor xyxy, Tensor offsets, Tensor? sizes, SymInt[] image_size, SymInt[] feature_maps"

_library = torch.library.Library("cass", "DEF")
_library.define(
    f"masks({_BOXES}, int[] choices, float[] numbers, ScalarType dtype, bool return_owner)"
    " -> (Tensor mask, Tensor owner)"
)
_library.define(f"loss(Tensor logits, Tensor target, {_LOSS}) -> (Tensor, Tensor, Tensor)")
_library.define(
    f"boxes_loss(Tensor logits, {_BOXES}, int[] mask_choices, float[] mask_numbers, {_LOSS})"
    " -> (Tensor, Tensor, Tensor)"
)
_library.define("scale_(Tensor(a!) grad, Tensor factor) -> ()")


# On CUDA.


def _launch(name: str, *args: Any) -> Any:
    try:
        from cass_core.ops import losses, masks, scale
    except ImportError as error:
        raise CassError(f"CUDA tensors need Triton, which torch for CUDA brings: {error}") from None
    launches: dict[str, Any] = {
        "masks": masks.launch_masks,
        "loss": losses.launch_loss,
        "boxes_loss": losses.launch_boxes_loss,
        "scale_": scale.launch_scale,
    }
    return launches[name](*args)


CUDA = {name: partial(_launch, name) for name in ("masks", "loss", "boxes_loss", "scale_")}
"""What each operator does on CUDA."""


# Anywhere else: on the host.


def _mask_inputs(
    xyxy: Tensor,
    offsets: Tensor,
    sizes: Tensor | None,
    image_size: list[int],
    feature_maps: list[int],
    choices: list[int],
    numbers: list[float],
    dtype: torch.dtype,
    return_owner: bool,
) -> MaskInputs:
    boxes = BoxBatch(xyxy.detach().cpu(), np.diff(offsets.cpu().numpy()))
    where = np.array([image_size], np.float64) if sizes is None else sizes.cpu().numpy()
    maps = list(zip(feature_maps[::2], feature_maps[1::2], strict=True))
    name = str(dtype).removeprefix("torch.")
    options = maps, False, mask_spec(choices, numbers), name, return_owner
    check_options(boxes.num_images, *options)
    return MaskInputs(boxes, where, *options)


def _masks_on_host(xyxy: Tensor, *args: Any) -> tuple[Tensor, Tensor]:
    inputs = _mask_inputs(xyxy, *args)
    masks, owners = compute_masks(inputs)

    def flat(arrays: list[Any], name: str) -> Tensor:
        tensors = [from_host(array.reshape(-1), name, as_tensor=True) for array in arrays]
        if not tensors:
            return torch.empty(0, dtype=getattr(torch, name), device=xyxy.device)
        return torch.cat(cast(list[Tensor], tensors)).to(xyxy.device)

    return flat(masks, inputs.dtype), flat(owners, "int32")


def _loss_of(
    logits: Tensor,
    target: Tensor | None,
    mask: MaskInputs | None,
    choices: list[int],
    numbers: list[float],
    normalizer: float,
    grad_dtype: torch.dtype | None,
) -> tuple[Tensor, Tensor, Tensor]:
    # The compiled loop gives the gradient in the dtype of its logits.
    array, name = to_host(logits if grad_dtype is None else logits.detach().to(grad_dtype))
    host_target, target_name = (None, "") if target is None else to_host(target)
    if host_target is not None:
        host_target = host_target.reshape(array.shape)
    spec = loss_spec(choices, numbers)
    found = compute_losses(
        LossInputs.checked(
            array, name, host_target, target_name, mask, spec, normalizer, grad_dtype is not None
        )
    )

    def place(array: Any, name: str) -> Tensor:
        return cast(Tensor, from_host(np.asarray(array), name, as_tensor=True)).to(logits.device)

    loss = place(found.loss, found.loss.dtype.name)
    total = torch.as_tensor(found.total, dtype=loss.dtype, device=logits.device)
    return loss, total, logits.new_empty(0) if found.grad is None else place(found.grad, name)


def _loss_on_host(logits: Tensor, target: Tensor, *options: Any) -> tuple[Tensor, Tensor, Tensor]:
    return _loss_of(logits, target, None, *options)


def _boxes_loss_on_host(logits: Tensor, *args: Any) -> tuple[Tensor, Tensor, Tensor]:
    mask = (*args[:-4], torch.float32, False)
    return _loss_of(logits, None, _mask_inputs(*mask), *args[-4:])


def _scale_on_host(grad: Tensor, factor: Tensor) -> None:
    # .data has a version counter of its own: the gradient stays readable for a second backward.
    grad.data.mul_(factor)


_HOST = {
    "masks": _masks_on_host,
    "loss": _loss_on_host,
    "boxes_loss": _boxes_loss_on_host,
    "scale_": _scale_on_host,
}
for _name, _function in CUDA.items():
    _library.impl(_name, _function, "CUDA")
    _library.impl(_name, _HOST[_name], "CompositeExplicitAutograd")


# Shapes alone.


@torch.library.register_fake("cass::masks", lib=_library)
def _fake_masks(
    xyxy: Tensor,
    offsets: Tensor,
    sizes: Tensor | None,
    image_size: list[int],
    feature_maps: list[int],
    choices: list[int],
    numbers: list[float],
    dtype: torch.dtype,
    return_owner: bool,
) -> tuple[Tensor, Tensor]:
    pairs = zip(feature_maps[::2], feature_maps[1::2], strict=True)
    grids = [patch_grid(pair, choices[0]) for pair in pairs]
    count = (offsets.shape[0] - 1) * sum(rows * columns for rows, columns in grids)
    owners = xyxy.new_empty(count if return_owner else 0, dtype=torch.int32)
    return xyxy.new_empty(count, dtype=dtype), owners


def _fake_losses(logits: Tensor, *args: Any) -> tuple[Tensor, Tensor, Tensor]:
    (_, per_patch), _, _, grad_dtype = args[-4:]
    real = torch.float64 if logits.dtype == torch.float64 else torch.float32
    return (
        logits.new_empty(logits.shape if per_patch else (), dtype=real),
        logits.new_empty((), dtype=real),
        logits.new_empty(0)
        if grad_dtype is None
        else logits.new_empty(logits.shape, dtype=grad_dtype),
    )


for _name in ("loss", "boxes_loss"):
    torch.library.register_fake(f"cass::{_name}", _fake_losses, lib=_library)


@torch.library.register_fake("cass::scale_", lib=_library)
def _fake_scale(grad: Tensor, factor: Tensor) -> None:
    return None


# The gradient: made in the forward pass, scaled in the backward pass.


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    _, total, grad = output
    ctx.mark_non_differentiable(total, grad)
    ctx.set_materialize_grads(False)
    ctx.tensors_at = [i for i, value in enumerate(inputs) if isinstance(value, Tensor)]
    ctx.plain_inputs = [None if isinstance(value, Tensor) else value for value in inputs]
    ctx.is_spent = False
    ctx.save_for_backward(grad, *(inputs[i] for i in ctx.tensors_at))


def _gradient(operator: Any, ctx: Any, of_loss: Tensor) -> Any:
    grad, logits, *others = ctx.saved_tensors
    if grad.shape != logits.shape:
        raise RuntimeError("this CASS loss was computed without grad_dtype, so without a gradient")
    if ctx.is_spent:
        # Backward for the second time: the first has scaled the gradient in its place.
        inputs = list(ctx.plain_inputs)
        for i, tensor in zip(ctx.tensors_at, (logits.detach(), *others), strict=True):
            inputs[i] = tensor
        _, _, grad = operator(*inputs)
    if torch.is_grad_enabled():  # create_graph
        return _Gradient.apply(logits, grad, of_loss)
    if (
        of_loss.ndim  # a factor for every patch
        or grad.dtype != logits.dtype
        or type(grad) is not Tensor  # traced by torch.compile, which fuses this with what follows
    ):
        return (grad * of_loss).to(logits.dtype)
    ctx.is_spent = True
    # In place, and nothing is touched where the factor is 1: the gradient is written once.
    torch.ops.cass.scale_(grad, of_loss)
    return grad


class _Gradient(torch.autograd.Function):
    """The gradient, whose own is not known.

    torch's `once_differentiable` would take it for a constant where the outer gradient is one, and
    a gradient penalty would silently have no effect.
    """

    @staticmethod
    def forward(_: Any, logits: Tensor, grad: Tensor, of_loss: Tensor) -> Tensor:
        product: Tensor = (grad * of_loss).to(logits.dtype)
        return product

    @staticmethod
    def backward(_: Any, __: Tensor) -> None:
        raise RuntimeError(
            "CassLoss and MaskLoss can be differentiated only once (double backward)"
        )


def _backward(operator: Any) -> Any:
    def backward(ctx: Any, of_loss: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
        gradient = None if of_loss is None else _gradient(operator, ctx, of_loss)
        return gradient, *(None for _ in ctx.plain_inputs[1:])

    return backward


for _name in ("loss", "boxes_loss"):
    torch.library.register_autograd(
        f"cass::{_name}",
        _backward(getattr(torch.ops.cass, _name).default),
        setup_context=_setup,
        lib=_library,
    )
