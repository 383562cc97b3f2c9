"""Computes mask requests that wait at the same time in one launch of a GPU's kernels."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np

from cass_core.arrays import Array
from cass_core.boxes import BoxBatch
from cass_core.errors import CassError
from cass_core.grid import FeatureMap
from cass_core.masks import MaskInputs
from cass_core.specs import MaskSpec

Output: TypeAlias = tuple[Sequence[Array], Sequence[Array]]
"""Masks and owner maps (none unless asked for) of one request, to be filled."""
Compute: TypeAlias = Callable[[MaskInputs, Sequence[Output]], None]
"""Fills the outputs of requests, whose images follow each other in the inputs."""
_Key: TypeAlias = tuple[MaskSpec, tuple[FeatureMap, ...], str, bool]

_log = logging.getLogger(__name__)


class EngineBroken(CassError):
    """The device computes nothing any more in this process."""


class Expired(CassError):
    """The caller's time was over before the computation began."""


class Closed(CassError):
    """The batcher was closed before the request was computed."""


@dataclass(frozen=True, slots=True, eq=False)
class BatchJob:
    """One request for masks.

    Attributes:
        inputs: what is asked for, in the host's memory.
        masks: arrays to fill, one a feature map, of the answer's shapes and dtypes, contiguous.
        owners: likewise, int32; empty unless owners are asked for.
        expires: when nobody waits for the answer any more, on the event loop's clock; None for
            never.
    """

    inputs: MaskInputs
    masks: Sequence[Array]
    owners: Sequence[Array]
    expires: float | None


@dataclass(frozen=True, slots=True, eq=False)
class _Waiting:
    job: BatchJob
    answer: asyncio.Future[None]
    arrival: int
    due: float
    patches: int
    boxes: int


@dataclass(slots=True)
class _Group:
    """Jobs that one launch can compute, the first to arrive first."""

    queue: deque[_Waiting] = field(default_factory=deque)
    patches: int = 0
    boxes: int = 0

    def add(self, waiting: _Waiting) -> None:
        self.queue.append(waiting)
        self.patches += waiting.patches
        self.boxes += waiting.boxes

    def remove_first(self) -> None:
        first = self.queue.popleft()
        self.patches -= first.patches
        self.boxes -= first.boxes


class Batcher:
    """Gathers jobs while the engine is busy, and computes those that are alike together.

    A job that finds nothing waiting or running is launched at once. Others wait for the engine,
    and at least for the window of the first of them, unless there is a full launch before.
    Alike are jobs of equal spec, feature maps, dtype and owners; the job that has waited longest
    is always in the next launch, with what is alike in the order of arrival.

    All methods are for the event loop's thread.

    Args:
        compute: fills arrays, in the executor; one call at a time.
        executor: has at least one thread.
        window_seconds: how long the first of several waiting jobs waits for others. uvloop rounds
            it to whole milliseconds.
        max_patches: patches of a launch; a job of more is launched alone.
        max_boxes: boxes of a launch; a job of more is launched alone.
        launched: told the number of requests of each launch.
    """

    def __init__(
        self,
        compute: Compute,
        executor: Executor,
        *,
        window_seconds: float,
        max_patches: int,
        max_boxes: int,
        launched: Callable[[int], None],
    ) -> None:
        self._compute = compute
        self._executor = executor
        self._window = window_seconds
        self._max_patches = max_patches
        self._max_boxes = max_boxes
        self._launched = launched
        self._arrivals = itertools.count()
        self._groups: dict[_Key, _Group] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._computing: list[_Waiting] = []
        self._task: asyncio.Task[None] | None = None
        self._stopped: CassError | None = None

    async def fill(self, job: BatchJob) -> None:
        """Wait until the job's arrays are filled.

        A job whose wait is cancelled is not computed; if it is being computed by then, its arrays
        may still be written to until that launch ends.

        Raises:
            Expired: its time was over before it was computed.
            Closed: `close` came first.
            EngineBroken: the device is broken, for good.
            Exception: what computing this job, and no other, raised.
        """
        if self._stopped is not None:
            raise self._stopped.with_traceback(None)  # which would grow with each raise
        loop = asyncio.get_running_loop()
        is_idle = self._task is None and not self._groups
        inputs = job.inputs
        waiting = _Waiting(
            job,
            loop.create_future(),
            next(self._arrivals),
            loop.time() + (0 if is_idle else self._window),
            sum(images * rows * columns for images, rows, columns in inputs.shapes()),
            inputs.boxes.num_boxes,
        )
        key = (inputs.spec, tuple(inputs.maps), inputs.dtype, inputs.return_owner)
        self._groups.setdefault(key, _Group()).add(waiting)
        self._schedule()
        await waiting.answer

    async def close(self) -> None:
        """Answer all who wait with `Closed`; a launch that runs is left to its thread."""
        self._stop(Closed("the batcher is closed"))
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    def _schedule(self) -> None:
        """Set the time of the next launch."""
        if self._task is not None or not self._groups:
            return
        loop = asyncio.get_running_loop()
        if self._timer is not None:
            self._timer.cancel()
        is_full = any(
            group.patches >= self._max_patches or group.boxes >= self._max_boxes
            for group in self._groups.values()
        )
        due = loop.time() if is_full else self._groups[self._oldest()].queue[0].due
        self._timer = loop.call_at(due, self._launch)

    def _oldest(self) -> _Key:
        return min(self._groups, key=lambda key: self._groups[key].queue[0].arrival)

    def _launch(self) -> None:
        self._timer = None
        batch = self._take()
        if batch:
            self._computing = batch
            self._task = asyncio.get_running_loop().create_task(self._run(batch))
        else:
            self._schedule()

    def _take(self) -> list[_Waiting]:
        """The jobs of the next launch; none if all that were alike have gone."""
        key = self._oldest()
        group = self._groups[key]
        batch: list[_Waiting] = []
        patches = boxes = 0
        while group.queue:
            first = group.queue[0]
            if _is_wanted(first):
                patches += first.patches
                boxes += first.boxes
                if batch and (patches > self._max_patches or boxes > self._max_boxes):
                    break
                batch.append(first)
            group.remove_first()
        if not group.queue:
            del self._groups[key]
        return batch

    async def _run(self, batch: list[_Waiting]) -> None:
        try:
            await self._answer(batch)
        finally:
            self._computing = []
            self._task = None
            self._schedule()

    async def _answer(self, batch: list[_Waiting]) -> None:
        self._launched(len(batch))
        jobs = [waiting.job for waiting in batch]
        loop = asyncio.get_running_loop()
        try:
            await loop.run_in_executor(self._executor, self._compute_merged, jobs)
        except EngineBroken as error:
            self._stop(error)
        except Exception as error:
            if len(batch) == 1:
                _fail(batch[0], error)
                return
            _log.warning("a launch failed", extra={"requests": len(batch)}, exc_info=True)
            for waiting in batch:
                if _is_wanted(waiting):
                    await self._answer([waiting])
        else:
            for waiting in batch:
                if not waiting.answer.done():
                    waiting.answer.set_result(None)

    def _compute_merged(self, jobs: Sequence[BatchJob]) -> None:
        inputs = merge([job.inputs for job in jobs])
        self._compute(inputs, [(job.masks, job.owners) for job in jobs])

    def _stop(self, error: CassError) -> None:
        """Answer everybody, now and from now on, with the error."""
        self._stopped = error
        if self._timer is not None:
            self._timer.cancel()
        queued = itertools.chain.from_iterable(group.queue for group in self._groups.values())
        for waiting in (*self._computing, *queued):
            _fail(waiting, error)
        self._groups.clear()


def merge(requests: Sequence[MaskInputs]) -> MaskInputs:
    """One request for the images of several, one after the other.

    Args:
        requests: in the host's memory, equal in spec, feature maps, dtype and owners.
    """
    first = requests[0]
    if len(requests) == 1:
        return first
    boxes = BoxBatch(
        np.concatenate([np.asarray(request.boxes.xyxy) for request in requests]),
        np.concatenate([request.boxes.counts for request in requests]),
    )
    sizes = [np.asarray(request.sizes) for request in requests]
    if all(len(size) == 1 and np.array_equal(size, sizes[0]) for size in sizes):
        merged = sizes[0]
    else:
        images = [(request.boxes.num_images, 2) for request in requests]
        merged = np.concatenate(list(map(np.broadcast_to, sizes, images)))
    return MaskInputs(boxes, merged, first.maps, False, first.spec, first.dtype, first.return_owner)


def _is_wanted(waiting: _Waiting) -> bool:
    """Whether somebody still waits for this; who does so in vain is told."""
    if waiting.answer.done():
        return False
    expires = waiting.job.expires
    if expires is None or asyncio.get_running_loop().time() < expires:
        return True
    _fail(waiting, Expired("the deadline passed while the request waited for the device"))
    return False


def _fail(waiting: _Waiting, error: Exception) -> None:
    if not waiting.answer.done():
        waiting.answer.set_exception(error)
