"""CassLoss and MaskLoss: the differentiable loss of a training loop, from boxes or a mask."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.autograd.forward_ad import unpack_dual

from cass_core.boxes import BoxBatch
from cass_core.checks.logits import check_target, warn_of_ones
from cass_core.checks.plausible import check_plausible
from cass_core.grid import FeatureMap, feature_maps, image_sizes, one_image_size
from cass_core.inputs import check_sizes, check_spec
from cass_core.levels import check_levels, flat_levels, in_form_of, split_logits, sum_levels
from cass_core.ops.backend import DeviceBoxes, boxes_loss, is_on_device, offsets_of, to_device
from cass_core.ops.spec_args import loss_options, mask_options
from cass_core.specs import LossSpec, MaskSpec, normalizer_of

T = TypeVar("T")


class CassLoss(nn.Module):
    """Soft target mask and loss in one, as an auxiliary loss of a token-pruning detector.

    Args:
        mask_spec: how the target is made.
        loss_spec: the loss; ``per_object`` counts the boxes it is called with unless
            ``num_boxes`` is given.

    Example:
        >>> loss = CassLoss(MaskSpec(), LossSpec(kind="bce"))
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
        check_spec(mask_spec, MaskSpec)
        check_spec(loss_spec)
        self.mask_spec = mask_spec
        self.loss_spec = loss_spec

    def forward(
        self,
        logits: Tensor | Sequence[Tensor],
        boxes: BoxBatch | Sequence[Any],
        image_size: Any,
        feature_map: Any,
        num_boxes: float | None = None,
    ) -> Any:
        """The reduced loss.

        Args:
            logits: ``[B, n_y, n_x]`` or ``[B, n_y * n_x]``, or as heads give them, ``[B, 1, n_y,
                n_x]`` or ``[B, n_y * n_x, 1]``. Of several levels a list with one such tensor a
                level, or one row ``[B, n]`` of all levels' patches, one level after the other.
            boxes: as for `cass_core.generate_mask`; they are moved to the logits' device.
            image_size: (H, W) in pixels, one for all images or one for each. Of sizes in CUDA
                memory beside the logits only the shape is checked.
            feature_map: (h, w) in cells, or a list of them: the loss of several levels is one,
                with sums and normaliser over all of them.
            num_boxes: normaliser of ``per_object``; by default the number of boxes given.

        Returns:
            A float32 scalar (float64 for float64 logits), or for ``reduction="none"`` the
            losses in the logits' form. Differentiable once with respect to the logits; a second
            or a forward-mode derivative is a RuntimeError.

        Raises:
            InvalidRequest: an argument cannot be used; it is named.
        """
        maps, single = feature_maps(feature_map)
        device = _checked(logits).device
        # Reading a tensor would make the host wait for its device.
        size = None if isinstance(image_size, Tensor) else one_image_size(image_size)
        if size is not None and is_on_device(boxes, device):
            batch = boxes
            placed = DeviceBoxes(torch.as_tensor(batch.xyxy), offsets_of(batch), None, list(size))
            if not torch.compiler.is_compiling():
                check_plausible(batch, image_sizes(size, batch.num_images), maps)
        else:
            batch, placed = _untraced(_place, boxes, image_size, maps, device)
        levels = split_logits(logits, maps, single, self.mask_spec.patch_size, batch.num_images)

        def loss_of(
            level: Tensor, cells: FeatureMap, spec: LossSpec, num_boxes: float | None
        ) -> Tensor:
            value: Tensor
            value, _, _ = boxes_loss(
                level,
                placed,
                list(cells),
                mask_options(self.mask_spec),
                loss_options(spec),
                normalizer_of(spec, level.numel(), num_boxes),
                _grad_dtype(level),
            )
            return value

        num_boxes = batch.num_boxes if num_boxes is None else num_boxes
        return sum_levels(loss_of, levels, maps, self.loss_spec, num_boxes, logits)

    def extra_repr(self) -> str:
        """What torch shows between the parentheses."""
        return f"{self.mask_spec}, {self.loss_spec}"


class MaskLoss(nn.Module):
    """The loss of logits against masks that are there already, as from a data loader.

    Args:
        loss_spec: the loss; ``per_object`` needs ``num_boxes``.

    Example:
        >>> loss = MaskLoss(LossSpec(kind="bce"))
        >>> logits = torch.zeros(1, 4, 4, requires_grad=True)
        >>> value = loss(logits, torch.ones(1, 4, 4))
        >>> value.backward()
        >>> round(value.item(), 4), logits.grad[0, 0, 0].item()
        (0.6931, -0.03125)
    """

    def __init__(self, loss_spec: LossSpec = LossSpec()) -> None:  # noqa: B008 - frozen
        super().__init__()
        check_spec(loss_spec)
        self.loss_spec = loss_spec

    def forward(
        self,
        logits: Tensor | Sequence[Tensor],
        mask: Tensor | Sequence[Tensor],
        num_boxes: float | None = None,
    ) -> Any:
        """The reduced loss.

        Args:
            logits: as for `CassLoss.forward`.
            mask: of as many patches, in [0, 1], on the logits' device; uint8 stands for value /
                255. Of several levels a list, as loaders give it, or one row ``[B, n]``.
            num_boxes: normaliser of ``per_object``.

        Returns:
            As `CassLoss`; differentiable once with respect to the logits, not to the mask.

        Raises:
            InvalidRequest: an argument cannot be used; it is named.
        """
        _checked(logits)
        row, target = flat_levels(logits, mask)
        target = torch.as_tensor(check_target(target, row))
        if not torch.compiler.is_compiling():
            warn_of_ones(target, "mask")
        normalizer = normalizer_of(self.loss_spec, row.numel(), num_boxes)
        options = loss_options(self.loss_spec)
        value: Tensor
        value, _, _ = torch.ops.cass.loss(
            row, target.detach(), *options, normalizer, _grad_dtype(row)
        )
        return in_form_of(logits, value) if self.loss_spec.reduction == "none" else value

    def extra_repr(self) -> str:
        """What torch shows between the parentheses."""
        return f"{self.loss_spec}"


def _checked(logits: Any) -> Tensor:
    """The first level of what must be logits of one or several levels."""
    levels = check_levels(logits)
    # torch would take an operator without a forward derivative for a constant.
    if not torch.compiler.is_compiling() and any(
        unpack_dual(x).tangent is not None for x in levels
    ):
        raise RuntimeError("CassLoss and MaskLoss have no forward-mode derivative")
    return levels[0]


def _grad_dtype(logits: Tensor) -> torch.dtype | None:
    """What the gradient is made in; None if it is not requested.

    That of half-precision logits is kept in float32 until the outer gradient has been multiplied
    in: a mean over many patches is below what float16 can hold.
    """
    if not (logits.requires_grad and torch.is_grad_enabled()):
        return None
    return torch.float64 if logits.dtype == torch.float64 else torch.float32


def _untraced(function: Callable[..., T], *args: Any) -> T:
    """Call a function that torch.compile leaves its graph for.

    `torch.compiler.disable` as a decorator would load torch's compiler when this is imported.
    """
    if torch.compiler.is_compiling():
        function = torch.compiler.disable(function)
    return function(*args)


def _place(
    boxes: BoxBatch | Sequence[Any],
    image_size: Any,
    maps: Sequence[FeatureMap],
    device: torch.device,
) -> tuple[BoxBatch, DeviceBoxes]:
    given = BoxBatch.wrap(boxes)
    batch = given.to(device)
    sizes = check_sizes(image_size, batch)
    check_plausible(given, sizes, maps)
    return batch, to_device(batch, sizes, device)
