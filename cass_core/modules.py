"""CassLoss: the differentiable loss of a training loop, from logits and boxes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from cass_core.accel.losses import take_loss
from cass_core.boxes import BoxBatch
from cass_core.errors import InvalidRequest
from cass_core.grid import one_feature_map, patch_grid
from cass_core.losses import check_logits, check_same_grid, check_summed, compute_loss
from cass_core.masks import generate_mask
from cass_core.specs import LossSpec, MaskSpec


class CassLoss(nn.Module):
    """Soft target mask and loss in one, as an auxiliary loss of a token-pruning detector.

    Args:
        mask_spec: how the target is made.
        loss_spec: the loss; ``per_object`` counts the boxes it is called with unless
            ``num_boxes`` is given.

    Example:
        >>> loss = CassLoss(MaskSpec(patch_size=1), LossSpec(kind="bce"))
        >>> logits = torch.zeros(1, 4, 4, requires_grad=True)
        >>> value = loss(logits, [[[8, 8, 24, 24]]], image_size=(32, 32), feature_map=(4, 4))
        >>> value.backward()
        >>> round(value.item(), 4), logits.grad.shape
        (0.6931, torch.Size([1, 4, 4]))
    """

    def __init__(
        self,
        mask_spec: MaskSpec = MaskSpec(),  # noqa: B008 - frozen
        loss_spec: LossSpec = LossSpec(),  # noqa: B008 - frozen
    ) -> None:
        super().__init__()
        self.mask_spec = mask_spec
        self.loss_spec = loss_spec

    def forward(
        self,
        logits: Tensor,
        boxes: BoxBatch | Sequence[Any],
        image_size: Any,
        feature_map: Any,
        num_boxes: float | None = None,
    ) -> Tensor:
        """The reduced loss.

        Args:
            logits: ``[B, n_y, n_x]`` or ``[B, n_y * n_x]``.
            boxes: as for `cass_core.generate_mask`; they are moved to the logits' device.
            image_size: (H, W) in pixels, one for all images or one for each.
            feature_map: (h, w) in cells.
            num_boxes: normaliser of ``per_object``; by default the number of boxes given.

        Returns:
            A float32 scalar (float64 for float64 logits), or for ``reduction="none"`` the
            losses in the logits' shape. Differentiable once with respect to the logits.

        Raises:
            InvalidRequest: an argument cannot be used; it is named.
        """
        if not isinstance(logits, Tensor):
            raise InvalidRequest("logits", f"must be a torch tensor, got {type(logits).__name__}")
        check_logits(logits)
        batch = BoxBatch.wrap(boxes)
        grid = patch_grid(one_feature_map(feature_map), self.mask_spec.patch_size)
        check_same_grid(tuple(logits.shape), (batch.num_images, *grid), "logits")
        xyxy = torch.as_tensor(batch.xyxy)
        if xyxy is not batch.xyxy or xyxy.device != logits.device:
            batch = BoxBatch(xyxy.to(logits.device), batch.counts)
        target = generate_mask(batch, image_size, feature_map, self.mask_spec)
        if self.mask_spec.merge == "sum" and target.numel():
            check_summed(float(target.max()))
        if num_boxes is None:
            num_boxes = batch.num_boxes
        # The gradient of half-precision logits is kept in float32 until the outer gradient has
        # been multiplied in: a mean over many patches is below what float16 can hold.
        if logits.dtype in (torch.float16, torch.bfloat16):
            logits = logits.float()
        value: Tensor = _ClosedForm.apply(  # type: ignore[no-untyped-call]
            logits, target, self.loss_spec, num_boxes
        )
        return value

    def extra_repr(self) -> str:
        """What torch shows between the parentheses."""
        return f"{self.mask_spec}, {self.loss_spec}"


class _ClosedForm(torch.autograd.Function):
    """The loss with its closed-form gradient, made in the forward pass."""

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, target: Tensor, spec: LossSpec, num_boxes: float
    ) -> Tensor:
        want = ctx.needs_input_grad[0]
        if logits.device.type == "cpu":
            result = compute_loss(logits, target, spec, num_boxes=num_boxes, return_grad=want)
        else:
            result = take_loss(logits, target, spec, num_boxes, want, target_known_good=True)
        if want:
            ctx.save_for_backward(result.grad)
        value: Tensor = result.loss
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, None, None, None]:
        (grad,) = ctx.saved_tensors
        # For `none` the outer gradient has the logits' shape, otherwise it is a scalar.
        return grad * grad_output, None, None, None
