"""What mask requests ask for beside their boxes, worked out once for all that ask for the same."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from cass.dtypes import element_type
from cass.frames import MaskLayout
from cass_core.boxes import BoxBatch
from cass_core.masks import MaskInputs
from cass_server.effort import MaskEffort
from cass_server.limits import Limits


@dataclass(frozen=True, slots=True)
class MaskAsk:
    """What a request asks for, and what follows from that.

    Attributes:
        options: the fields of its `MaskInputs` after the boxes.
        patches: of all masks together.
        answer_bytes: about the size of the answer.
        effort: of computing it.
        layout: of the answer.
    """

    options: tuple[Any, ...]
    patches: int
    answer_bytes: int
    effort: MaskEffort
    layout: MaskLayout

    @classmethod
    def of(cls, inputs: MaskInputs, limits: Limits, *, entry: bool) -> MaskAsk:
        """What checked inputs ask for.

        Args:
            inputs: the request.
            limits: what it is held to.
            entry: whether the answer is the entry of a stream.

        Raises:
            InvalidRequest: the answer is beyond the limits.
        """
        patches = limits.check_patches(inputs)
        shapes, dtype, owner = inputs.shapes(), inputs.dtype, inputs.return_owner
        return cls(
            (inputs.sizes, inputs.maps, inputs.single, inputs.spec, dtype, owner),
            patches,
            (element_type(dtype).itemsize + 4 * owner) * patches,
            MaskEffort(shapes, inputs.spec, owner),
            MaskLayout(shapes, dtype, owner, entry=entry),
        )

    def inputs(self, boxes: BoxBatch) -> MaskInputs:
        """Those of a request that asks for the same for other boxes of as many images."""
        return MaskInputs(boxes, *self.options)
