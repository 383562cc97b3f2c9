"""Pinned buffers, through which everything that a request brings goes to a GPU and back."""

from __future__ import annotations

import contextlib
import queue
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from cass_core.arrays import Array


class Staging:
    """A few pinned buffers, which are used again and again, bound what a server pins.

    Copies through pinned memory block no other work on the device, but it is slow to allocate, and
    torch keeps what it once had. As many callers as there are buffers can use the device at the
    same time; each buffer grows to ``max_bytes``, by powers of two, so that with what torch keeps
    of smaller ones less than ``2 * buffers * max_bytes`` is pinned.

    Args:
        stream: on which all copies are; None without a GPU, where nothing is pinned.
        buffers: number of buffers.
        max_bytes: of each. More bytes go through a buffer in turn.
    """

    def __init__(self, stream: torch.cuda.Stream | None, buffers: int, max_bytes: int) -> None:
        self._stream = stream
        self._max_bytes = max_bytes
        # The last to come back goes out first: buffers that are not needed do not grow.
        self._free: queue.LifoQueue[Tensor] = queue.LifoQueue()
        for _ in range(buffers):
            self._free.put(torch.empty(0, dtype=torch.uint8))

    @contextlib.contextmanager
    def buffer(self, wanted: int) -> Iterator[Tensor]:
        """Bytes of a buffer, at least as many as wanted or the most there may be.

        To be held until what was sent through it is computed: `fetch` waits for that.
        """
        buffer = self._free.get()
        try:
            if len(buffer) < min(wanted, self._max_bytes):
                # By powers of two: each is pinned once in the life of a server.
                size = min(1 << (wanted - 1).bit_length(), self._max_bytes)
                pin = self._stream is not None
                buffer = torch.empty(size, dtype=torch.uint8, pin_memory=pin)
            yield buffer
        except BaseException:
            # A copy may still be under way: torch gives pinned memory to others after that.
            buffer = torch.empty(0, dtype=torch.uint8)
            raise
        finally:
            self._free.put(buffer)

    def send(self, arrays: Sequence[Array], buffer: Tensor, device: torch.device) -> list[Tensor]:
        """Copies of arrays on the device, in the order of its stream; once in a buffer's use."""
        arrays = [np.ascontiguousarray(array) for array in arrays]
        copies = [
            torch.empty(array.shape, dtype=getattr(torch, array.dtype.name), device=device)
            for array in arrays
        ]
        sources, targets = [bytes_of(array) for array in arrays], [flat(copy) for copy in copies]
        lengths = [len(source) for source in sources]
        host = buffer.numpy()
        for start, stop in _turns(sum(lengths), len(host)):
            if start:
                self._wait()  # what was sent before is still read
            for i, part, window in overlaps(lengths, start, stop):
                host[window] = sources[i][part]
                targets[i][part].copy_(buffer[window], non_blocking=True)
        return copies

    def fetch(
        self, results: Sequence[Tensor], arrays: Sequence[Sequence[Array]], buffer: Tensor
    ) -> None:
        """Wait for results on the device; copy each to its contiguous arrays, end to end."""
        sources = [flat(result.contiguous()) for result in results]
        targets = [bytes_of(array) for parts in arrays for array in parts]
        to_send, to_fill = [len(source) for source in sources], [len(t) for t in targets]
        host = buffer.numpy()
        for start, stop in _turns(sum(to_send), len(host)):
            for i, part, window in overlaps(to_send, start, stop):
                buffer[window].copy_(sources[i][part], non_blocking=True)
            self._wait()
            for i, part, window in overlaps(to_fill, start, stop):
                targets[i][part] = host[window]

    def _wait(self) -> None:
        if self._stream is not None:
            # Blocking is asleep, not spinning on a core.
            event = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
            event.record(self._stream)
            event.synchronize()


def _turns(total: int, length: int) -> Iterator[tuple[int, int]]:
    """Start and end of what goes through a buffer of a length at a time."""
    for start in range(0, total, length or 1):
        yield start, min(start + length, total)


def overlaps(lengths: Sequence[int], start: int, stop: int) -> Iterator[tuple[int, slice, slice]]:
    """Which parts of items that lie end to end are within [start, stop).

    Returns:
        The item's index, the part of the item, and its offsets from ``start``.

    Example:
        >>> list(overlaps([4, 4], 3, 6))
        [(0, slice(3, 4, None), slice(0, 1, None)), (1, slice(0, 2, None), slice(1, 3, None))]
    """
    begin = 0
    for i, length in enumerate(lengths):
        first, last = max(begin, start), min(begin + length, stop)
        if first < last:
            yield i, slice(first - begin, last - begin), slice(first - start, last - start)
        begin += length


def flat(tensor: Tensor) -> Tensor:
    """The bytes of a contiguous tensor."""
    return tensor.view(-1).view(torch.uint8)


def bytes_of(array: Array) -> Array:
    """The bytes of an array.

    Raises:
        ValueError: it is not contiguous, so that a copy would be filled.
    """
    if not array.flags.c_contiguous:
        raise ValueError("results need contiguous arrays")
    return array.reshape(-1).view(np.uint8)
