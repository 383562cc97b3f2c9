"""The gradient of the losses: made in the forward pass, scaled in the backward pass."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    """Keep what `backward_of` needs; the loss is the first output and the gradient the third."""
    _, total, grad, *others = output
    ctx.mark_non_differentiable(total, grad, *others)
    _keep(ctx, inputs, grad)


def _keep(ctx: Any, inputs: tuple[Any, ...], grad: Tensor) -> None:
    ctx.set_materialize_grads(False)
    tensors, plain = [grad], []
    for value in inputs:
        if isinstance(value, Tensor):
            tensors.append(value)
            value = Tensor  # which marks the place of one
        plain.append(value)
    ctx.plain_inputs = plain
    ctx.is_spent = False
    ctx.save_for_backward(*tensors)


def _gradient(operator: Any, scale: Any, ctx: Any, of_loss: Tensor) -> Any:
    grad, *tensors = ctx.saved_tensors
    logits = tensors[0]
    if grad.shape != logits.shape:
        raise RuntimeError("this CASS loss was computed without grad_dtype, so without a gradient")
    if ctx.is_spent:
        # Backward for the second time: the first has scaled the gradient in its place.
        saved = iter((logits.detach(), *tensors[1:]))
        grad = operator(*(next(saved) if v is Tensor else v for v in ctx.plain_inputs))[2]
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
    scale(grad, of_loss)
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


def backward_of(operator: Any) -> Any:
    """The backward pass of an operator whose first input are the logits."""

    def backward(ctx: Any, of_loss: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
        scale = torch.ops.cass.scale_
        gradient = None if of_loss is None else _gradient(operator, scale, ctx, of_loss)
        return gradient, *(None for _ in ctx.plain_inputs[1:])

    return backward


class Launched(torch.autograd.Function):
    """A loss by its launches alone, of one gradient: an operator would take longer than they do."""

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, launch: Any, scale: Any, arguments: tuple[Any, ...]
    ) -> Tensor:
        """The loss.

        Args:
            launch: gives loss, sum and gradient for the logits and the arguments.
            scale: multiplies a gradient by a scalar in place.
        """
        loss: Tensor
        loss, _, grad, *_ = launch(logits, *arguments)
        _keep(ctx, (logits, *arguments), grad)
        ctx.launch, ctx.scale = launch, scale
        return loss

    @staticmethod
    def backward(ctx: Any, of_loss: Tensor | None) -> tuple[Tensor | None, ...]:
        """The gradient of the logits."""
        none = None, None, None
        if of_loss is None:
            return None, *none
        return _gradient(ctx.launch, ctx.scale, ctx, of_loss), *none
