"""The torch operators of masks and losses, with weights and without.

On CUDA they launch the Triton kernels, anywhere else they go through the compiled CPU loops. They
take tensors and plain numbers, have fake kernels and a gradient, and so work under torch.compile,
autocast and CUDA graphs.
"""

from __future__ import annotations

import dataclasses
import functools
from functools import partial
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from cass_core.arrays import from_host, to_host
from cass_core.boxes import BoxBatch
from cass_core.checks.weighting import Weighting
from cass_core.cpu.backend import compute_losses, compute_masks
from cass_core.errors import CassError
from cass_core.inputs import LossInputs, MaskInputs, check_options
from cass_core.ops.gradient import Launched, backward_of, keep
from cass_core.ops.launch import MaskArguments
from cass_core.ops.spec_args import is_per_patch, loss_spec, mask_spec
from cass_core.specs import WeightSpec

_LOSS = "int[] choices, float[] numbers, float normalizer, ScalarType? grad_dtype"
_BOXES = "Tensor xyxy, Tensor offsets, Tensor? sizes, SymInt[] image_size, SymInt[] feature_maps"

_library = torch.library.Library("cass", "DEF")
_library.define(
    f"masks({_BOXES}, int[] choices, float[] numbers, ScalarType dtype, bool return_owner)"
    " -> (Tensor mask, Tensor owner)"
)
_WEIGHTS = (
    "Tensor? valid_region, Tensor? ignored, Tensor? ignored_offsets, Tensor? box_weights,"
    " bool balanced, float background_weight"
)
_library.define(
    f"weighted_masks({_BOXES}, int[] choices, float[] numbers, ScalarType dtype,"
    f" bool return_owner, {_WEIGHTS}) -> (Tensor mask, Tensor owner, Tensor weights)"
)
_library.define(f"loss(Tensor logits, Tensor target, {_LOSS}) -> (Tensor, Tensor, Tensor)")
_library.define(
    f"boxes_loss(Tensor logits, {_BOXES}, int[] mask_choices, float[] mask_numbers, {_LOSS})"
    " -> (Tensor, Tensor, Tensor)"
)
_library.define(
    f"weighted_loss(Tensor logits, Tensor target, Tensor weights, {_LOSS})"
    " -> (Tensor, Tensor, Tensor, Tensor)"
)
_library.define("scale_(Tensor(a!) grad, Tensor factor) -> ()")


# On CUDA.


@functools.cache
def _launches() -> dict[str, Any]:
    try:
        from cass_core.ops import losses, masks, scale, weights
    except ImportError as error:
        raise CassError(f"CUDA tensors need Triton, which torch for CUDA brings: {error}") from None
    return {
        "masks": masks.launch_masks,
        "weighted_masks": weights.launch_weighted_masks,
        "loss": losses.launch_loss,
        "boxes_loss": losses.launch_boxes_loss,
        "weighted_loss": losses.launch_weighted_loss,
        "scale_": scale.launch_scale,
    }


def _launch(name: str, *args: Any) -> Any:
    return _launches()[name](*args)


_NAMES = ("masks", "weighted_masks", "loss", "boxes_loss", "weighted_loss", "scale_")
CUDA = {name: partial(_launch, name) for name in _NAMES}
"""What each operator does on CUDA."""

LAUNCHED = {"cuda"}
"""Kinds of devices whose tensors these are for."""


def differentiable_loss(name: str, logits: Tensor, *arguments: Any) -> Tensor:
    """The first output of an operator of losses, by the shortest way that the logits allow."""
    if (
        type(logits) is Tensor  # not traced
        and logits.device.type in LAUNCHED
        and not torch.compiler.is_compiling()
        and not torch._C._are_functorch_transforms_active()  # such as vmap, whose tensors are plain
    ):
        launches = _launches()
        loss: Tensor = Launched.apply(logits, launches[name], launches["scale_"], arguments)
        return loss
    found: Tensor = getattr(torch.ops.cass, name)(logits, *arguments)[0]
    return found


# Anywhere else: on the host.


def _mask_inputs(*arguments: Any) -> MaskInputs:
    given = MaskArguments(*arguments)
    boxes = _boxes_of(given.xyxy, given.offsets)
    sizes = given.sizes
    where = np.array([given.image_size], np.float64) if sizes is None else sizes.cpu().numpy()
    name = str(given.dtype).removeprefix("torch.")
    spec = mask_spec(given.choices, given.numbers)
    options = list(given.maps), False, spec, name, given.return_owner
    check_options(boxes.num_images, *options)
    return MaskInputs(boxes, where, *options)


def _masks_on_host(xyxy: Tensor, *args: Any) -> tuple[Tensor, Tensor]:
    mask, owner, _ = _flat_masks(xyxy, _mask_inputs(xyxy, *args))
    return mask, owner


def _weighted_masks_on_host(xyxy: Tensor, *args: Any) -> tuple[Tensor, Tensor, Tensor]:
    valid_region, ignored, ignored_offsets, box_weights, balanced, background = args[-6:]
    weighting = Weighting(
        WeightSpec("object" if balanced else "patch", background),
        valid_region,
        None if ignored is None else _boxes_of(ignored, ignored_offsets),
        box_weights,
    )
    inputs = dataclasses.replace(_mask_inputs(xyxy, *args[:-6]), weighting=weighting)
    return _flat_masks(xyxy, inputs)


def _boxes_of(xyxy: Tensor, offsets: Tensor) -> BoxBatch:
    return BoxBatch(xyxy.detach().cpu(), np.diff(offsets.cpu().numpy()))


def _flat_masks(xyxy: Tensor, inputs: MaskInputs) -> tuple[Tensor, Tensor, Tensor]:
    masks, owners, weights = compute_masks(inputs)

    def flat(arrays: list[Any], name: str) -> Tensor:
        tensors = [from_host(array.reshape(-1), name, as_tensor=True) for array in arrays]
        if not tensors:
            return torch.empty(0, dtype=getattr(torch, name), device=xyxy.device)
        return torch.cat(cast(list[Tensor], tensors)).to(xyxy.device)

    return flat(masks, inputs.dtype), flat(owners, "int32"), flat(weights, "float32")


def _loss_of(
    logits: Tensor,
    target: Tensor | None,
    mask: MaskInputs | None,
    weights: Tensor | None,
    choices: list[int],
    numbers: list[float],
    normalizer: float,
    grad_dtype: torch.dtype | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    # The compiled loop gives the gradient in the dtype of its logits.
    array, name = to_host(logits if grad_dtype is None else logits.detach().to(grad_dtype))
    host_target, target_name = (None, "") if target is None else to_host(target)
    if host_target is not None:
        host_target = host_target.reshape(array.shape)
    host = array, name, host_target, target_name
    options = loss_spec(choices, numbers), normalizer, grad_dtype is not None
    host_weights = None if weights is None else to_host(weights)[0].reshape(array.shape)
    found = compute_losses(LossInputs.checked(*host, mask, *options, host_weights))

    def place(array: Any, name: str) -> Tensor:
        return cast(Tensor, from_host(np.asarray(array), name, as_tensor=True)).to(logits.device)

    loss = place(found.loss, found.loss.dtype.name)
    total = torch.as_tensor(found.total, dtype=loss.dtype, device=logits.device)
    grad = logits.new_empty(0) if found.grad is None else place(found.grad, name)
    return (
        loss,
        total,
        grad,
        torch.as_tensor(found.normalizer, dtype=torch.float64).to(total.device),
    )


def _loss_on_host(logits: Tensor, target: Tensor, *options: Any) -> tuple[Tensor, ...]:
    return _loss_of(logits, target, None, None, *options)[:3]


def _weighted_loss_on_host(
    logits: Tensor, target: Tensor, weights: Tensor, *options: Any
) -> tuple[Tensor, ...]:
    return _loss_of(logits, target, None, weights, *options)


def _boxes_loss_on_host(logits: Tensor, *args: Any) -> tuple[Tensor, ...]:
    mask = (*args[:-4], torch.float32, False)
    return _loss_of(logits, None, _mask_inputs(*mask), None, *args[-4:])[:3]


def _scale_on_host(grad: Tensor, factor: Tensor) -> None:
    # .data has a version counter of its own: the gradient stays readable for a second backward.
    grad.data.mul_(factor)


_HOST = {
    "masks": _masks_on_host,
    "weighted_masks": _weighted_masks_on_host,
    "loss": _loss_on_host,
    "boxes_loss": _boxes_loss_on_host,
    "weighted_loss": _weighted_loss_on_host,
    "scale_": _scale_on_host,
}
for _name, _function in CUDA.items():
    _library.impl(_name, _function, "CUDA")
    _library.impl(_name, _HOST[_name], "CompositeExplicitAutograd")


# Shapes alone.


@torch.library.register_fake("cass::masks", lib=_library)
def _fake_masks(*arguments: Any) -> tuple[Tensor, Tensor]:
    given = MaskArguments(*arguments)
    return given.outputs(given.return_owner)


@torch.library.register_fake("cass::weighted_masks", lib=_library)
def _fake_weighted_masks(xyxy: Tensor, *args: Any) -> tuple[Tensor, Tensor, Tensor]:
    mask, owner = _fake_masks(xyxy, *args[:-6])
    return mask, owner, xyxy.new_empty(mask.shape)


def _fake_losses(logits: Tensor, *args: Any) -> tuple[Tensor, Tensor, Tensor]:
    choices, _, _, grad_dtype = args[-4:]
    real = torch.float64 if logits.dtype == torch.float64 else torch.float32
    return (
        logits.new_empty(logits.shape if is_per_patch(choices) else (), dtype=real),
        logits.new_empty((), dtype=real),
        logits.new_empty(0)
        if grad_dtype is None
        else logits.new_empty(logits.shape, dtype=grad_dtype),
    )


for _name in ("loss", "boxes_loss"):
    torch.library.register_fake(f"cass::{_name}", _fake_losses, lib=_library)


@torch.library.register_fake("cass::weighted_loss", lib=_library)
def _fake_weighted_loss(logits: Tensor, *args: Any) -> tuple[Tensor, ...]:
    return *_fake_losses(logits, *args), logits.new_empty((), dtype=torch.float64)


@torch.library.register_fake("cass::scale_", lib=_library)
def _fake_scale(grad: Tensor, factor: Tensor) -> None:
    return None


# The gradient.

for _name in ("loss", "boxes_loss", "weighted_loss"):
    torch.library.register_autograd(
        f"cass::{_name}",
        backward_of(getattr(torch.ops.cass, _name).default),
        setup_context=keep,
        lib=_library,
    )
