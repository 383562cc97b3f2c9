"""An engine that waits and fails as a test wants it to."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from cass_core.arrays import Array
from cass_core.inputs import MaskInputs
from cass_server.engines.base import Checkpoint, CpuEngine
from tests.server.support.processes import LIMIT

HELD, FAILING = 2, 5
"""Requests for masks of so many images are held, and of so many fail."""


class Held(CpuEngine):
    """Masks of two images wait until they are let go, those of five fail.

    Attributes:
        images: number of images of each request that was to be computed.
        waiting: released once for each request that waits.
        go: set it to let them go, now and later.
    """

    small_fill = None

    def __init__(self) -> None:
        """Nothing waits yet."""
        self.images: list[int] = []
        self.waiting = threading.Semaphore(0)
        self.go = threading.Event()

    def masks(
        self,
        inputs: MaskInputs,
        masks: Sequence[Array],
        owners: Sequence[Array],
        checkpoint: Checkpoint = None,
    ) -> None:
        """Wait, fail, or compute them."""
        images = inputs.boxes.num_images
        self.images.append(images)
        if images == HELD:
            self.waiting.release()
            assert self.go.wait(timeout=LIMIT)
        if images == FAILING:
            raise ZeroDivisionError("a secret of the inside")
        super().masks(inputs, masks, owners, checkpoint)
