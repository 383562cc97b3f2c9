"""The interface of engines, and the one for CPUs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, TypeAlias

from cass_core.arrays import Array
from cass_core.cpu.backend import compute_losses, fill_masks
from cass_core.cpu.small import SmallFill
from cass_core.inputs import LossInputs, MaskInputs
from cass_core.results import HostLoss
from cass_server.observability.metrics import Metrics
from cass_server.scheduling.batcher import Compute

Checkpoint: TypeAlias = Callable[[], None] | None


class Engine(Protocol):
    """Computes checked requests; called from several threads.

    Arrays have the shapes and dtypes of the answer, bfloat16 as its bits. A long computation on the
    CPU calls ``checkpoint`` between images; what it raises ends the computation.
    """

    device: str
    """``cpu`` or ``cuda:N``, as clients see it."""

    @property
    def fill_batch(self) -> Compute | None:
        """Computes the masks of several requests at once; None if that saves nothing."""

    @property
    def small_fill(self) -> Callable[[MaskInputs], SmallFill | None] | None:
        """Makes what fills the masks of small requests in place of `masks`, if anything."""

    def masks(
        self,
        inputs: MaskInputs,
        masks: Sequence[Array],
        owners: Sequence[Array],
        checkpoint: Checkpoint,
        weights: Sequence[Array] = (),
    ) -> None:
        """Fills masks, owner maps and weights (none unless requested), one per feature map."""

    def losses(self, inputs: LossInputs, checkpoint: Checkpoint) -> HostLoss:
        """Loss (of each patch under ``reduction="none"``), sum, normaliser and gradient.

        Raises:
            InvalidRequest: the target leaves [0, 1].
        """

    def gpu_memory_bytes(self) -> int:
        """Bytes of device memory that this process holds; 0 on the CPU. Costs nothing."""

    def watch(self, metrics: Metrics, on_hang: Callable[[], None]) -> None:
        """Counts kernels, and calls ``on_hang`` if a computation hangs, after which none works."""

    def warm_up(self) -> None:
        """Compiles what the first request would otherwise wait for."""


class CpuEngine:
    """The same kernels as a local call: the same bits. One that overrides ``masks`` sets
    ``small_fill`` to None."""

    device = "cpu"
    fill_batch = None
    masks = staticmethod(fill_masks)
    losses = staticmethod(compute_losses)
    gpu_memory_bytes = staticmethod(lambda: 0)
    watch = staticmethod(lambda metrics, on_hang: None)

    @staticmethod
    def small_fill(inputs: MaskInputs) -> SmallFill | None:
        """See `Engine`."""
        from cass_core.cpu.run import small_fill

        return small_fill(inputs)

    @staticmethod
    def warm_up() -> None:
        """See `Engine`."""
        from cass_core.cpu.weighing import warm_up

        warm_up()
