"""CassLoss and MaskLoss: the differentiable loss of a training loop, from boxes or a mask."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.autograd.forward_ad import unpack_dual

from cass_core.boxes import BoxBatch
from cass_core.checks.logits import check_loss_weights, check_target, warn_of_ones
from cass_core.checks.plausible import check_plausible
from cass_core.grid import FeatureMap, feature_maps, image_sizes, one_image_size
from cass_core.inputs import MaskInputs, check_ranges, check_sizes, check_spec
from cass_core.levels import check_levels, flat_levels, in_form_of, split_logits, sum_levels
from cass_core.ops.backend import (
    DeviceBoxes,
    is_on_device,
    make_masks,
    offsets_of,
    to_device,
)
from cass_core.ops.registration import differentiable_loss
from cass_core.ops.spec_args import loss_options, mask_options
from cass_core.specs import LossSpec, MaskSpec, WeightSpec, normalizer_of

T = TypeVar("T")

_EQUAL_WEIGHTS = WeightSpec()


class CassLoss(nn.Module):
    """Soft target mask and loss in one, as an auxiliary loss of a token-pruning detector.

    Args:
        mask_spec: how the target is made.
        loss_spec: the loss; ``per_object`` counts the boxes it is called with unless
            ``num_boxes`` is given.
        weight_spec: what a patch weighs; None is ``WeightSpec()``.

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
        weight_spec: WeightSpec | None = None,
    ) -> None:
        super().__init__()
        check_spec(mask_spec, MaskSpec)
        check_spec(loss_spec)
        self.weight_spec = WeightSpec() if weight_spec is None else weight_spec
        check_spec(self.weight_spec, WeightSpec)
        self.mask_spec = mask_spec
        self.loss_spec = loss_spec

    def forward(
        self,
        logits: Tensor | Sequence[Tensor],
        boxes: BoxBatch | Sequence[Any],
        image_size: Any,
        feature_map: Any,
        num_boxes: float | None = None,
        *,
        valid_region: Any = None,
        ignore: BoxBatch | Sequence[Any] | None = None,
        box_weights: Any = None,
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
            valid_region: where the picture is in each padded image, as for
                `cass_core.generate_mask`, as are the next two.
            ignore: boxes of regions that nobody annotated.
            box_weights: one number a box.

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
        check_ranges(self.mask_spec.num_ranges, maps)
        levels = split_logits(logits, maps, single, self.mask_spec.patch_size, batch.num_images)
        num_boxes = batch.num_boxes if num_boxes is None else num_boxes
        given = valid_region, ignore, box_weights
        if self.weight_spec != _EQUAL_WEIGHTS or any(value is not None for value in given):
            (row,) = flat_levels(levels)
            options = self.weight_spec, *given
            target, weights = _untraced(
                _weighted_target, batch, image_size, maps, self.mask_spec, options, device
            )
            value = _weighted_loss(row, target, weights, self.loss_spec, num_boxes)
            return in_form_of(logits, value) if self.loss_spec.reduction == "none" else value

        def loss_of(index: int, spec: LossSpec, num_boxes: float | None) -> Tensor:
            level = levels[index]
            return differentiable_loss(
                "boxes_loss",
                level,
                *placed,
                list(maps[index]),
                *mask_options(self.mask_spec.of_level(index)),
                *loss_options(spec),
                normalizer_of(spec, level.numel(), num_boxes),
                _grad_dtype(level),
            )

        return sum_levels(loss_of, levels, self.loss_spec, num_boxes, logits)

    def extra_repr(self) -> str:
        """What torch shows between the parentheses."""
        return f"{self.mask_spec}, {self.loss_spec}, {self.weight_spec}"


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
        *,
        weights: Tensor | Sequence[Tensor] | None = None,
    ) -> Any:
        """The reduced loss.

        Args:
            logits: as for `CassLoss.forward`.
            mask: of as many patches, in [0, 1], on the logits' device; uint8 stands for value /
                255. Of several levels a list, as loaders give it, or one row ``[B, n]``.
            num_boxes: normaliser of ``per_object``.
            weights: of each patch, finite and at least 0, in the form of the mask.

        Returns:
            As `CassLoss`; differentiable once with respect to the logits, not to the mask.

        Raises:
            InvalidRequest: an argument cannot be used; it is named.
        """
        _checked(logits)
        row, target, given = flat_levels(logits, target=mask, weights=weights)
        target = torch.as_tensor(check_target(target, row))
        is_eager = not torch.compiler.is_compiling()
        if is_eager:
            warn_of_ones(target, "mask")
        if given is None:
            normalizer = normalizer_of(self.loss_spec, row.numel(), num_boxes)
            options = *loss_options(self.loss_spec), normalizer, _grad_dtype(row)
            value = differentiable_loss("loss", row, target.detach(), *options)
        else:
            given = torch.as_tensor(check_loss_weights(given, row, read=is_eager))
            value = _weighted_loss(row, target.detach(), given, self.loss_spec, num_boxes)
        return in_form_of(logits, value) if self.loss_spec.reduction == "none" else value

    def extra_repr(self) -> str:
        """What torch shows between the parentheses."""
        return f"{self.loss_spec}"


def _checked(logits: Any) -> Tensor:
    """The first level of what must be logits of one or several levels."""
    levels = check_levels(logits)
    # torch would take an operator without a forward derivative for a constant.
    if not torch.compiler.is_compiling():
        for level in levels:
            if unpack_dual(level).tangent is not None:
                raise RuntimeError("CassLoss and MaskLoss have no forward-mode derivative")
    return levels[0]


def _weighted_loss(
    logits: Tensor, target: Tensor, weights: Tensor, spec: LossSpec, num_boxes: float | None
) -> Tensor:
    normalizer = normalizer_of(spec, logits.numel(), num_boxes)
    options = *loss_options(spec), normalizer, _grad_dtype(logits)
    return differentiable_loss("weighted_loss", logits, target, weights, *options)


def _weighted_target(
    batch: BoxBatch,
    image_size: Any,
    maps: list[FeatureMap],
    spec: MaskSpec,
    options: tuple[Any, ...],
    device: torch.device,
) -> tuple[Tensor, Tensor]:
    """Mask and weights of all levels in a row, on the device."""
    sizes = check_sizes(image_size, batch)
    inputs = MaskInputs(batch, sizes, maps, False, spec, "float32", False).weighted(*options)
    masks, _, weights = make_masks(inputs, device)
    return flat_levels(masks)[0], flat_levels(weights)[0]


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
