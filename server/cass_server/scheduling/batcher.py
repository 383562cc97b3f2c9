"""Computes mask requests that wait at the same time in one launch of a GPU's kernels."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from threading import TIMEOUT_MAX, Condition, Lock
from time import monotonic
from typing import TypeAlias

import numpy as np

from cass_core.arrays import Array
from cass_core.boxes import BoxBatch
from cass_core.inputs import MaskInputs
from cass_server.exceptions import (
    Cancelled,
    EngineBroken,
    Expired,
    NotCompiled,
    Rejection,
    Stopping,
)

Output: TypeAlias = tuple[Sequence[Array], Sequence[Array]]
"""Masks and owner maps (none unless requested) of one request, to be filled."""
Compute: TypeAlias = Callable[[MaskInputs, Sequence[Output]], None]
"""Fills the outputs of requests, whose images follow each other in the inputs."""

_log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class BatchRequest:
    """One request for masks: its checked arguments, and the contiguous arrays to fill."""

    inputs: MaskInputs
    masks: Sequence[Array]
    owners: Sequence[Array]
    """Empty unless owners are requested."""
    expires: float
    """The deadline on `time.monotonic`'s clock; may be infinite."""
    is_wanted: Callable[[], bool]
    """Whether the caller is still there; called from any thread, must not block."""
    # The batcher's own: equal keys, which are then identical, are what one launch can compute.
    key: tuple[object, ...] = field(init=False)
    patches: int = field(init=False)
    due: float = field(init=False)
    changed: Condition = field(init=False)
    is_done: bool = field(init=False)  # filled, or given up by its caller

    @property
    def boxes(self) -> int:
        """Number of boxes."""
        return self.inputs.boxes.num_boxes


class Batcher:
    """Gathers requests while the engine is busy, and computes those that are alike together.

    A request that finds nothing waiting or running is launched at once. Others wait for the
    engine, and at least for the window of the first of them, unless there is a full launch before.
    Alike are requests of equal spec, feature maps, dtype and owners; the request that has waited
    longest is always in the next launch, with what is alike in order of arrival.

    There is no thread but the callers': while no launch runs, the first of the queue waits until
    it is time for the next one, and then computes for its whole batch. If that fails, each request
    is the first again, and computed alone by its own caller, who gets its error.

    Args:
        compute: fills arrays, in the thread of one of the callers; one call at a time.
        window_seconds: how long the first of several waiting requests waits for others.
        max_patches: patches of a launch; a request of more is launched alone.
        max_boxes: boxes of a launch; a request of more is launched alone.
        launched: receives the number of requests of each launch.
    """

    def __init__(
        self,
        compute: Compute,
        *,
        window_seconds: float,
        max_patches: int,
        max_boxes: int,
        launched: Callable[[int], None],
    ) -> None:
        self._compute = compute
        self._window = window_seconds
        self._max_patches = max_patches
        self._max_boxes = max_boxes
        self._launched = launched
        self._lock = Lock()
        self._queue: list[BatchRequest] = []  # in order of arrival
        self._running: list[BatchRequest] = []  # computed by the thread of the first
        self._stopped: Callable[[], Rejection] | None = None

    def fill(self, request: BatchRequest) -> None:
        """Block until the request's arrays are filled.

        After an error, a launch that has begun may still write to the arrays.

        Raises:
            Expired: the deadline passed.
            Cancelled: the caller was gone before the request was computed.
            Stopping: `close` came first.
            EngineBroken: the device is broken, for good.
            DeviceFull: the device has too little memory for this request.
            NotCompiled: a kernel has to be compiled for this request.
            Exception: what computing this request, and no other, raised.
        """
        self._enter(request)
        try:
            while batch := self._wait(request):
                self._launch(batch)
        finally:
            self._leave(request)

    def close(self) -> None:
        """Answer all who wait, and who come later, with `Stopping`; a running launch goes on."""
        self._stop(Stopping)

    def _enter(self, request: BatchRequest) -> None:
        inputs, request.is_done = request.inputs, False
        key: tuple[object, ...]
        key = (inputs.spec, tuple(inputs.maps), inputs.dtype, inputs.return_owner)
        request.patches = sum(images * rows * columns for images, rows, columns in inputs.shapes())
        with self._lock:
            request.key = next((other.key for other in self._queue if other.key == key), key)
            is_idle = not self._queue and not self._running
            request.due = monotonic() + (0 if is_idle else self._window)
            request.changed = Condition(self._lock)
            self._queue.append(request)
            if not self._running and self._has_full_launch():
                self._queue[0].changed.notify()

    def _wait(self, request: BatchRequest) -> list[BatchRequest]:
        """Wait until the arrays are filled, or it is time to launch: then return the batch."""
        with self._lock:
            while not request.is_done:
                self._check(request)
                now, until = monotonic(), request.expires
                if not self._running and self._queue[0] is request:
                    if request.due <= now or self._has_full_launch():
                        return self._take()
                    until = min(until, request.due)
                request.changed.wait(min(until - now, TIMEOUT_MAX))
        return []

    def _check(self, request: BatchRequest) -> None:
        """Raise what forbids computing the request."""
        if self._stopped is not None:
            raise self._stopped()
        if request.expires <= monotonic():
            raise Expired("the deadline passed while the request waited for the device")
        if not request.is_wanted():
            raise Cancelled("the caller is gone")

    def _has_full_launch(self) -> bool:
        patches, boxes = Counter[int](), Counter[int]()
        for request in self._queue:
            patches[id(request.key)] += request.patches
            boxes[id(request.key)] += request.boxes
        return max(patches.values()) >= self._max_patches or max(boxes.values()) >= self._max_boxes

    def _take(self) -> list[BatchRequest]:
        """Move the next launch from the queue: its first, and what is alike."""
        first = self._queue[0]
        batch, patches, boxes = [first], first.patches, first.boxes
        for request in self._queue[1:]:
            if request.key is not first.key:
                continue
            try:
                self._check(request)
            except Rejection:
                request.changed.notify()  # to raise it where it belongs
                continue
            patches += request.patches
            boxes += request.boxes
            if patches > self._max_patches or boxes > self._max_boxes:
                break
            batch.append(request)
        self._queue = [request for request in self._queue if request not in batch]
        self._running = batch
        return batch

    def _launch(self, batch: Sequence[BatchRequest]) -> None:
        """Compute a batch; what has failed is first in the queue again, each like no other."""
        try:
            self._launched(len(batch))
            inputs = merge([request.inputs for request in batch])
            self._compute(inputs, [(request.masks, request.owners) for request in batch])
            for request in batch:
                request.is_done = True
        except EngineBroken as error:
            self._stop(partial(EngineBroken, *error.args))
            raise
        except Exception as error:
            if len(batch) == 1:
                raise
            if isinstance(error, NotCompiled):  # which each of the callers sees to
                return
            _log.warning("a launch failed", extra={"requests": len(batch)}, exc_info=True)
        finally:
            with self._lock:
                self._running = []
                failed = [request for request in batch if not request.is_done]
                self._queue[:0] = failed
                for request in failed:
                    request.key = (object(),)
                for request in batch:
                    request.changed.notify()

    def _leave(self, request: BatchRequest) -> None:
        """End a caller's wait, for whatever reason, and let the next one launch."""
        with self._lock:
            request.is_done = True
            if request in self._queue:
                self._queue.remove(request)
            if self._queue and not self._running:
                self._queue[0].changed.notify()

    def _stop(self, error: Callable[[], Rejection]) -> None:
        """Let everybody raise an error (one of their own), now and from now on."""
        with self._lock:
            self._stopped = self._stopped or error
            for request in (*self._running, *self._queue):
                request.changed.notify()


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
