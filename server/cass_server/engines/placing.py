"""Places the arrays of a request on a device, all in one go."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cass_core.arrays import Array
from cass_core.boxes import BoxBatch
from cass_core.checks.weighting import Weighting
from cass_core.inputs import LossInputs, MaskInputs
from cass_server.engines.staging import Staging


class Upload:
    """Collects arrays to be sent to a device, and says where they are once they are there.

    Args:
        device: where to.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._arrays: list[Array] = []
        self._copies: list[Tensor] = []

    @property
    def num_bytes(self) -> int:
        """Bytes of all arrays."""
        return sum(array.nbytes for array in self._arrays)

    def send(self, staging: Staging, buffer: Tensor) -> None:
        """Copy all arrays to the device, in the order of the staging's stream."""
        self._copies = staging.send(self._arrays, buffer, self._device)

    def masks(self, inputs: MaskInputs) -> Callable[[], MaskInputs]:
        """Add the arrays of a request for masks; returns what gives it with those on the device."""
        boxes = self._boxes(inputs.boxes)
        sizes = None if len(inputs.sizes) == 1 else self._add(inputs.sizes)
        weighting = self._weighting(inputs.weighting)

        def placed() -> MaskInputs:
            return dataclasses.replace(
                inputs,
                boxes=boxes(),
                sizes=inputs.sizes if sizes is None else sizes(),
                weighting=weighting(),
            )

        return placed

    def losses(
        self, inputs: LossInputs
    ) -> Callable[[], tuple[Tensor, Tensor | MaskInputs, Tensor | None]]:
        """As `masks`, for logits, target and weights of a loss."""
        logits = self._add(inputs.logits, inputs.logits_dtype)
        target: Callable[[], Tensor | MaskInputs]
        if inputs.mask is not None:
            target = self.masks(inputs.mask)
        else:
            target = self._add(inputs.target, inputs.target_dtype)
        weights = None if inputs.weights is None else self._add(inputs.weights)
        return lambda: (logits(), target(), None if weights is None else weights())

    def _add(self, array: Any, dtype: str = "") -> Callable[[], Tensor]:
        """Add an array; bfloat16 comes as its bits."""
        array = np.asarray(array)
        is_bfloat16 = dtype == "bfloat16"
        index = len(self._arrays)
        self._arrays.append(array.view(np.int16) if is_bfloat16 else array)

        def placed() -> Tensor:
            copy = self._copies[index]
            return copy.view(torch.bfloat16) if is_bfloat16 else copy

        return placed

    def _boxes(self, boxes: BoxBatch) -> Callable[[], BoxBatch]:
        xyxy, offsets = self._add(boxes.xyxy), self._add(boxes.offsets.astype(np.int32))
        return lambda: BoxBatch.checked(xyxy(), boxes.offsets, offsets())

    def _weighting(self, weighting: Weighting | None) -> Callable[[], Weighting | None]:
        if weighting is None:
            return lambda: None
        region, share = (
            None if value is None else self._add(value)
            for value in (weighting.valid_region, weighting.box_weights)
        )
        ignore = None if weighting.ignore is None else self._boxes(weighting.ignore)
        return lambda: Weighting(
            weighting.spec,
            None if region is None else region(),
            None if ignore is None else ignore(),
            None if share is None else share(),
        )
