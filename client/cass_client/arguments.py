"""The arguments of a call, as a value and checked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

from cass_client.parts import copied
from cass_core.arrays import Array
from cass_core.boxes import BoxBatch
from cass_core.checks.logits import check_logits
from cass_core.errors import InvalidRequest
from cass_core.grid import feature_maps, one_feature_map
from cass_core.inputs import LossInputs, MaskInputs, check_spec
from cass_core.levels import flat_levels, is_levels
from cass_core.results import HostLoss, LossResult, of_levels
from cass_core.specs import LossSpec, MaskSpec, WeightSpec

Masks: TypeAlias = tuple[list[Array], ...]


@dataclass(frozen=True, slots=True)
class MaskRequest:
    """The arguments of one `generate_mask`, for a stream of them.

    Attributes:
        boxes: the boxes of B images; see `cass_core.generate_mask`.
        image_size: (H, W) in pixels, one for all images or one for each.
        feature_map: (h, w) in cells, or a list of them.
        spec: the options.
        dtype: ``float32``, ``float16``, ``bfloat16`` (torch only) or ``uint8``.
        return_owner: also return which box gave each patch its value.
        weight_spec: what a patch weighs; this and the rest as for `cass_core.generate_mask`.
        valid_region: where the picture is in each padded image.
        ignore: boxes of regions that nobody annotated.
        box_weights: one number a box.
        return_weights: also return the weights.

    Example:
        >>> MaskRequest([[[8, 8, 24, 24]]], (32, 32), (4, 4)).dtype
        'float32'
    """

    boxes: BoxBatch | Sequence[Any]
    image_size: Any
    feature_map: Any
    spec: MaskSpec = MaskSpec()  # noqa: RUF009 - frozen
    dtype: Any = "float32"
    return_owner: bool = False
    weight_spec: WeightSpec | None = None
    valid_region: Any = None
    ignore: BoxBatch | Sequence[Any] | None = None
    box_weights: Any = None
    return_weights: bool = False

    def inputs(self) -> MaskInputs:
        """The checked arguments, whose arrays may be the caller's."""
        inputs = MaskInputs.check(
            self.boxes, self.image_size, self.feature_map, self.spec, self.dtype, self.return_owner
        )
        given = self.weight_spec, self.valid_region, self.ignore, self.box_weights
        return inputs.with_weights(self.return_weights, *given)

    def check(self) -> MaskInputs:
        """The checked arguments, which share no memory with the caller's."""
        inputs = self.inputs()
        is_shared = inputs.boxes is self.boxes  # rather than packed just now
        return copied(inputs, is_shared) if is_shared or inputs.weighting is not None else inputs


def loader_inputs(
    boxes: BoxBatch | Sequence[Any], image_size: Any, feature_map: Any, spec: MaskSpec, dtype: Any
) -> MaskInputs:
    """The arguments of a loader, checked before there are images: a size that is None is none yet.

    In its place is one that goes with the feature map.
    """
    if image_size is None:
        maps, _ = feature_maps(feature_map)
        image_size = maps[0] if maps else (1, 1)
    return MaskInputs.check(boxes, image_size, feature_map, spec, dtype, False)


class LossCall(NamedTuple):
    """A `compute_loss`: its checked arguments, and what its answer looks like.

    Attributes:
        inputs: the patches of several levels in a row.
        logits: as in ``inputs``, as an array or tensor.
        levels: the logits as they were given, if anything is of several levels; else None.
    """

    inputs: LossInputs
    logits: Any
    levels: Any

    def wrap(self, found: HostLoss) -> LossResult:
        """The result in the form of the logits."""
        result = found.wrap(self.logits, self.inputs.logits_dtype)
        return result if self.levels is None else of_levels(result, self.levels, self.inputs.spec)


def loss_call(
    logits: Any,
    target: Any,
    source: tuple[BoxBatch | Sequence[Any] | None, Any, Any, MaskSpec],
    weighting: tuple[WeightSpec | None, Any, BoxBatch | Sequence[Any] | None, Any],
    loss_spec: LossSpec,
    weights: Any,
    num_boxes: float | None,
    return_grad: bool,
) -> LossCall:
    """The checked arguments of a `compute_loss`.

    Args:
        logits, target, loss_spec, weights, num_boxes, return_grad: its arguments.
        source: boxes, image size, feature map and `MaskSpec`.
        weighting: `WeightSpec`, valid regions, ignored boxes and weights of the boxes.
    """
    boxes, image_size, feature_map, mask_spec = source
    check_spec(loss_spec)
    if (target is None) == (boxes is None):
        raise InvalidRequest("target", "give either a target or boxes")
    levels, mask = None, None
    if boxes is not None:
        if is_levels(logits):
            raise InvalidRequest(
                "logits",
                f"are a list of {len(logits)} levels; a loss from boxes is of one array: "
                "RemoteCassLoss takes several levels, and so does a target",
            )
        maps = one_feature_map(feature_map)
        mask = MaskInputs.check(boxes, image_size, maps, mask_spec, "float32", False)
        mask = mask.with_weights(any(value is not None for value in weighting), *weighting)
    elif any(value is not None for value in weighting):
        raise InvalidRequest("weight_spec", "and regions need boxes; a target has weights")
    elif any(map(is_levels, (logits, target, weights))):
        levels = logits
        logits, target, weights = flat_levels(logits, target=target, weights=weights)
    logits = check_logits(logits)
    options = loss_spec, num_boxes, return_grad, mask, weights
    return LossCall(LossInputs.check(logits, target, *options), logits, levels)
