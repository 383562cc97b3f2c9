"""RemoteCassLoss: `cass_core.CassLoss`, computed by a server."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.forward_ad import unpack_dual

from cass_client.client import CassClient, check_client
from cass_core.boxes import BoxBatch
from cass_core.grid import FeatureMap, feature_maps
from cass_core.inputs import check_ranges, check_spec
from cass_core.levels import check_levels, flat_levels, in_form_of, split_logits, sum_levels
from cass_core.specs import LossSpec, MaskSpec, WeightSpec


class RemoteCassLoss(nn.Module):
    """`cass_core.CassLoss` from a server: the same arguments, values and gradients.

    One call brings the value and, where autograd needs it, the gradient, which `backward`
    multiplies by the outer one.

    Args:
        client: computes the loss.
        mask_spec: how the target is made.
        loss_spec: the loss.
        weight_spec: what a patch weighs; None is ``WeightSpec()``.

    Example:
        >>> from cass_client import CassClient
        >>> client = CassClient("local:")
        >>> loss = RemoteCassLoss(client, MaskSpec(), LossSpec(kind="bce"))
        >>> logits = torch.zeros(1, 4, 4, requires_grad=True)
        >>> value = loss(logits, [[[8, 8, 24, 24]]], image_size=(32, 32), feature_map=(4, 4))
        >>> value.backward()
        >>> round(value.item(), 4), logits.grad.shape
        (0.6931, torch.Size([1, 4, 4]))
    """

    def __init__(
        self,
        client: CassClient,
        mask_spec: MaskSpec = MaskSpec(),  # noqa: B008 - frozen
        loss_spec: LossSpec = LossSpec(),  # noqa: B008 - frozen
        weight_spec: WeightSpec | None = None,
    ) -> None:
        super().__init__()
        self.client = check_client(client)
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
        """The reduced loss; see `cass_core.CassLoss.forward`, whose shapes and units these are.

        Args:
            logits: of one level or of several, on any device.
            boxes: xyxy in pixels, as for `cass_core.generate_mask`.
            image_size: (H, W) in pixels, one for all images or one for each.
            feature_map: (h, w) in cells, or a list of them; each level is a call of its own. With
                weights it is one for the masks and weights of all, and one for the loss.
            num_boxes: normaliser of ``per_object``; by default the number of boxes given.
            valid_region: where the picture is in each padded image, as for `CassLoss`, as are the
                next two.
            ignore: boxes of regions that nobody annotated.
            box_weights: one number a box.

        Raises:
            InvalidRequest: an argument cannot be used, or is beyond the server's limits.
            CassError: the server did not answer; see `CassClient.generate_mask`.
        """
        loss = self._loss
        # A compiled graph is left for the call. As a decorator this would load torch's compiler
        # with the module, some 2 s for each spawned worker.
        if torch.compiler.is_compiling():
            loss = torch.compiler.disable(loss)  # type: ignore[no-untyped-call]
        given = {"valid_region": valid_region, "ignore": ignore, "box_weights": box_weights}
        regions = {name: value for name, value in given.items() if value is not None}
        return loss(logits, boxes, image_size, feature_map, num_boxes, regions)

    def _loss(
        self,
        logits: Any,
        boxes: Any,
        image_size: Any,
        feature_map: Any,
        num_boxes: float | None,
        regions: dict[str, Any],
    ) -> Any:
        maps, single = feature_maps(feature_map)
        if any(unpack_dual(level).tangent is not None for level in check_levels(logits)):  # type: ignore[no-untyped-call]
            raise RuntimeError("RemoteCassLoss has no forward-mode derivative")
        batch = BoxBatch.wrap(boxes)
        patch_size = self.mask_spec.patch_size
        levels = split_logits(logits, maps, single, patch_size, batch.num_images)
        check_ranges(self.mask_spec.num_ranges, maps)
        if self.weight_spec != WeightSpec():
            regions |= {"weight_spec": self.weight_spec}
        if regions and len(levels) > 1:
            source = self._weighted_target(batch, image_size, maps, regions)
            num_boxes = batch.num_boxes if num_boxes is None else num_boxes
            value = self._value(flat_levels(levels)[0], self.loss_spec, num_boxes, source)
            return in_form_of(logits, value) if self.loss_spec.reduction == "none" else value

        def loss_of(index: int, spec: LossSpec, num_boxes: float | None) -> Tensor:
            of_level = {"feature_map": maps[index], "mask_spec": self.mask_spec.of_level(index)}
            source = {"boxes": batch, "image_size": image_size, **of_level, **regions}
            return self._value(levels[index], spec, num_boxes, source)

        return sum_levels(loss_of, levels, self.loss_spec, num_boxes, logits)

    def _weighted_target(
        self, boxes: BoxBatch, image_size: Any, maps: list[FeatureMap], regions: dict[str, Any]
    ) -> dict[str, Any]:
        """Masks and weights of all levels in a row."""
        found = self.client.generate_mask(
            boxes, image_size, maps, self.mask_spec, return_weights=True, **regions
        )
        target, weights = (torch.as_tensor(flat_levels(levels)[0]) for levels in found)
        return {"target": target, "weights": weights}

    def _value(
        self, logits: Tensor, spec: LossSpec, num_boxes: float | None, source: dict[str, Any]
    ) -> Tensor:
        wanted = logits.requires_grad and torch.is_grad_enabled()
        sent = logits.detach()
        if wanted and sent.dtype in (torch.float16, torch.bfloat16):
            # The gradient comes in the dtype of what is sent, and must be float32 until the outer
            # gradient is multiplied in: a mean over many patches is below what float16 can hold.
            sent = sent.float()
        if "target" in source:
            source = {name: value.to(sent.device) for name, value in source.items()}
        found = self.client.compute_loss(
            sent, loss_spec=spec, num_boxes=num_boxes, return_grad=wanted, **source
        )
        value: Tensor = found.loss
        if wanted:
            value = _Known.apply(logits, value, found.grad)  # type: ignore[no-untyped-call]
        return value

    def extra_repr(self) -> str:
        """What torch shows between the parentheses."""
        return f"{self.client}, {self.mask_spec}, {self.loss_spec}, {self.weight_spec}"


class _Known(torch.autograd.Function):
    """A value with the gradient that is known already."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, value: Tensor, grad: Tensor) -> Tensor:
        ctx.save_for_backward(logits, grad)
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, outer: Tensor) -> tuple[Tensor, None, None]:
        logits, grad = ctx.saved_tensors
        product: Tensor = _Gradient.apply(logits, grad, outer)  # type: ignore[no-untyped-call]
        return product, None, None


class _Gradient(torch.autograd.Function):
    """The gradient, which depends on the logits in a way that only the server knows.

    torch's `once_differentiable` would take it for a constant where the outer gradient is one, and
    a gradient penalty would silently have no effect.
    """

    @staticmethod
    def forward(_: Any, logits: Tensor, grad: Tensor, outer: Tensor) -> Tensor:
        return (grad * outer).to(logits.dtype)

    @staticmethod
    def backward(_: Any, __: Tensor) -> None:
        raise RuntimeError("RemoteCassLoss can be differentiated only once (double backward)")
