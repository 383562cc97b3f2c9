"""An engine that holds requests, fails, and counts what it computes."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

from cass_core.inputs import MaskInputs
from cass_server.engines.base import Checkpoint, CpuEngine
from tests.server.support.in_thread import SLOTS
from tests.server.support.processes import LIMIT, Gate
from tests.server.support.requests import mask_request

HELD, FAILING = 2, 5
"""Requests for masks of so many images are held, and of so many fail."""


class HoldingEngine(CpuEngine):
    """Masks of two images wait until they are released, those of five fail.

    Args:
        holds: False for one that holds nothing.
        checks: whether what was held looks then if it is still wanted, as long computations do.

    Attributes:
        gate: where requests are held.
        images: number of images of each request that was to be computed.
        most_at_a_time: requests computed at the same time.
    """

    small_fill = None

    def __init__(self, *, holds: bool = True, checks: bool = False) -> None:
        self.gate = Gate()
        self.images: list[int] = []
        self.most_at_a_time = 0
        self._at_a_time = 0
        self._checks = checks
        self._lock = threading.Lock()
        if not holds:
            self.gate.open()

    def masks(self, inputs: MaskInputs, *arrays: Any, checkpoint: Checkpoint = None) -> None:
        """Wait, fail, or compute them."""
        images = inputs.boxes.num_images
        with self._lock:
            self.images.append(images)
            self._at_a_time += 1
            self.most_at_a_time = max(self.most_at_a_time, self._at_a_time)
        try:
            if images == HELD:
                self.gate.wait()
            if images == FAILING:
                raise ZeroDivisionError("a secret of the inside")
            if self._checks and checkpoint is not None:
                checkpoint()
            super().masks(inputs, *arrays, checkpoint=checkpoint)
        finally:
            with self._lock:
                self._at_a_time -= 1

    @contextlib.contextmanager
    def holding(
        self, stub: Any, number: int = 1, *, side: int = 4, timeout: float = LIMIT
    ) -> Iterator[list[Any]]:
        """So many calls that are under way until the end; the first `SLOTS` are computed."""
        request = mask_request(HELD, side)
        calls = [stub.GenerateMask.future(request, timeout=timeout) for _ in range(number)]
        try:
            self.gate.wait_held(min(number, SLOTS))
            yield calls
        finally:
            self.gate.open()
            for call in calls:
                if not call.cancelled():
                    call.exception(timeout=LIMIT)
