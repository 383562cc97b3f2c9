"""Small requests: masks that one thread fills at once, without checkpoints or scratch memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from cass_core.arrays import Array

THREAD_PATCHES = 1 << 18
"""What is worth a thread of its own: some 100 µs of work, where handing it over takes 20."""
SHORT_WORK = 1 << 24
"""Patches that boxes reach in some 10 ms, after which a long computation may be ended."""


class SmallFill(NamedTuple):
    """Fills the masks of requests that differ in their boxes alone.

    Attributes:
        most_boxes: of a request; with more it is not small.
        fill: takes read-only boxes ``[M, 4]`` float32, offsets ``[B + 1]`` and the float32 masks,
            one per feature map.
    """

    most_boxes: int
    fill: Callable[[Array, Array, Sequence[Array]], None]
