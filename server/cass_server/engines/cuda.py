"""Computes on an NVIDIA GPU with the Triton kernels of `cass_core.ops`."""

from __future__ import annotations

import contextlib
import math
import queue
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from cass_core.arrays import MASK_DTYPES, Array, storage_dtype
from cass_core.boxes import BoxBatch
from cass_core.cpu.backend import check_summed, refuse_bad_target
from cass_core.inputs import LossInputs, MaskInputs
from cass_core.ops.backend import make_masks, take_loss
from cass_core.results import HostLoss
from cass_core.specs import LossSpec, MaskSpec
from cass_server.exceptions import EngineBroken
from cass_server.scheduling.batcher import Output

# Pinned memory is taken from the whole machine: at most this much, however large an answer is.
# More bytes go through it in turn; more callers than buffers wait for one.
_STAGING_BUFFERS = 4
_STAGING_BYTES = 32 << 20

_CUDA_ERRORS = ("CUDA error:", "CUDA driver error:", "Triton Error [CUDA]:")
# The call alone has failed, and what follows works: by CUDA's documentation, all others leave
# the process unable to use the device.
_PASSING_ERRORS = (
    "out of memory",
    "invalid argument",
    "invalid configuration argument",
    "too many resources requested for launch",
)


class CudaEngine:
    """See `cass_server.engines.base.Engine`; safe to call from several threads.

    A caller waits for its own work alone: what it enqueues goes to a stream that only this
    engine uses, and an event marks its end.

    Args:
        device: ``cuda:N``. On ``cpu`` the operators run without streams and pinned memory.
    """

    small_fill = None

    def __init__(self, device: str) -> None:
        self.device = device
        self._device = torch.device(device)
        on_gpu = self._device.type == "cuda"
        self._stream = (
            torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
            if on_gpu
            else None
        )
        self._staging = Staging(self._stream, _STAGING_BUFFERS, _STAGING_BYTES)
        self._broken: str | None = None

    def masks(
        self,
        inputs: MaskInputs,
        masks: Sequence[Array],
        owners: Sequence[Array],
        checkpoint: Callable[[], None] | None = None,
        weights: Sequence[Array] = (),
    ) -> None:
        """See `Engine`."""
        if not weights:
            self.fill_batch(inputs, [(masks, owners)])
            return
        with self._use():
            found = [array for part in make_masks(inputs, self._device) for array in part]
            self._staging.fetch(found, [(array,) for array in (*masks, *owners, *weights)])

    def fill_batch(self, inputs: MaskInputs, outputs: Sequence[Output]) -> None:
        """Computes the masks of several requests, whose images follow each other in the inputs.

        Raises:
            EngineBroken: the device is broken.
        """
        with self._use():
            masks, owners, _ = make_masks(inputs, self._device)
            of_masks = zip(*(output[0] for output in outputs), strict=True)
            of_owners = zip(*(output[1] for output in outputs), strict=True)
            self._staging.fetch([*masks, *owners], [*of_masks, *of_owners])

    def losses(self, inputs: LossInputs, checkpoint: Callable[[], None] | None = None) -> HostLoss:
        """See `Engine`."""
        shape, per_patch = inputs.logits.shape, inputs.spec.reduction == "none"
        real = np.float64 if inputs.logits_dtype == "float64" else np.float32
        loss, total = np.empty(shape if per_patch else (), real), np.empty((), real)
        grad = np.empty(shape, storage_dtype(inputs.logits_dtype)) if inputs.return_grad else None
        with self._use():
            target: Tensor | MaskInputs
            if inputs.mask is not None:
                target = inputs.mask
            else:
                assert inputs.target is not None  # by LossInputs.checked
                target = self._upload(inputs.target, inputs.target_dtype)
            logits = self._upload(inputs.logits, inputs.logits_dtype)
            weights = None
            if inputs.weights is not None:
                weights = self._upload(inputs.weights, "float32")
            result = take_loss(
                logits, target, inputs.spec, inputs.num_boxes, grad is not None, weights
            )
            on_device, on_host = [result.loss, result.sum], [(loss,), (total,)]
            normalizer = np.empty((), np.float64)
            if isinstance(result.normalizer, Tensor):
                on_device.append(result.normalizer)
                on_host.append((normalizer,))
            else:
                normalizer[...] = result.normalizer
            if grad is not None:
                on_device.append(result.grad)
                on_host.append((grad,))
            self._staging.fetch(on_device, on_host)
        if math.isnan(total):
            self._refuse_target(inputs)
        return HostLoss(loss, float(total), float(normalizer), grad)

    def warm_up(self) -> None:
        """Compile the kernels of the default specs, of every dtype of masks."""
        boxes = BoxBatch(np.array([[2, 2, 6, 6]] * 2, np.float32), np.array([1, 1]))
        one_size, own_sizes = np.array([[8.0, 8.0]]), np.array([[8.0, 8.0], [8.0, 9.0]])
        for dtype in MASK_DTYPES:
            for sizes in (one_size, own_sizes):
                inputs = MaskInputs(boxes, sizes, [(8, 8)], True, MaskSpec(), dtype, False)
                self.masks(inputs, [np.empty(inputs.shapes()[0], storage_dtype(dtype))], [])
        mask = MaskInputs(boxes, one_size, [(8, 8)], True, MaskSpec(), "float32", False)
        logits = np.zeros(mask.shapes()[0], np.float32)
        loss = LossInputs(logits, "float32", None, "", mask, LossSpec(), None, True)
        self.losses(loss)

    def gpu_memory_bytes(self) -> int:
        """Bytes of device memory that this process holds for tensors, in use or not."""
        return 0 if self._stream is None else torch.cuda.memory_reserved(self._device)

    @contextlib.contextmanager
    def _use(self) -> Iterator[None]:
        """Work on the engine's stream; see `is_breaking` for the errors that are final."""
        if self._broken is not None:
            raise EngineBroken(self._broken)
        try:
            with torch.cuda.stream(self._stream):
                yield
        except RuntimeError as error:
            if is_breaking(error):
                self._broken = f"{self.device} is broken: {_first_line(error)}"
                raise EngineBroken(self._broken) from error
            if _is_out_of_memory(error):
                # Other processes on the device may need what lies idle here.
                torch.cuda.empty_cache()
            raise

    def _upload(self, array: Array, dtype: str) -> Tensor:
        bits = np.ascontiguousarray(array).view(np.int16) if dtype == "bfloat16" else array
        # Pinned from the start: what a request brings is read-only, and copied in any case.
        host = torch.empty(
            array.shape, dtype=getattr(torch, bits.dtype.name), pin_memory=self._stream is not None
        )
        np.copyto(host.numpy(), bits)
        copy = host.to(self._device, non_blocking=True)
        return copy.view(torch.bfloat16) if dtype == "bfloat16" else copy

    def _refuse_target(self, inputs: LossInputs) -> None:
        """The kernels answer NaN to a target outside [0, 1]: raise, if it was that."""
        if inputs.target is not None:
            refuse_bad_target(inputs.target, inputs.target_dtype)
        elif inputs.mask is not None and inputs.mask.spec.merge == "sum":
            mask = np.empty(inputs.mask.shapes()[0], storage_dtype(inputs.mask.dtype))
            self.masks(inputs.mask, [mask], [])
            check_summed(float(mask.max(initial=0)))


class Staging:
    """Brings results to the host through a few pinned buffers, which are used again and again.

    Copies to pinned memory block no other work on the device, but it is slow to allocate. As many
    callers as there are buffers can fetch at the same time; each grows to ``max_bytes``.
    """

    def __init__(self, stream: torch.cuda.Stream | None, buffers: int, max_bytes: int) -> None:
        self._stream = stream
        self._max_bytes = max_bytes
        # The last to come back goes out first: buffers that are not needed do not grow.
        self._free: queue.LifoQueue[Tensor] = queue.LifoQueue()
        for _ in range(buffers):
            self._free.put(torch.empty(0, dtype=torch.uint8))

    def fetch(self, results: Sequence[Tensor], arrays: Sequence[Sequence[Array]]) -> None:
        """Wait for results on the device; copy each to its contiguous arrays, end to end."""
        sources = [result.contiguous().view(-1).view(torch.uint8) for result in results]
        targets = [_bytes_of(array) for parts in arrays for array in parts]
        to_send, to_fill = [len(source) for source in sources], [len(t) for t in targets]
        total = sum(to_send)
        if not total:
            return
        with self.buffer(total) as buffer:
            host = buffer.numpy()
            for start in range(0, total, len(host)):
                stop = min(start + len(host), total)
                for i, part, window in overlaps(to_send, start, stop):
                    buffer[window].copy_(sources[i][part], non_blocking=True)
                self._wait()
                for i, part, window in overlaps(to_fill, start, stop):
                    targets[i][part] = host[window]

    @contextlib.contextmanager
    def buffer(self, wanted: int) -> Iterator[Tensor]:
        """Bytes of a buffer, at least as many as wanted or the most there may be."""
        buffer = self._free.get()
        try:
            if len(buffer) < min(wanted, self._max_bytes):
                # By powers of two: each is pinned once in the life of a server.
                size = min(1 << (wanted - 1).bit_length(), self._max_bytes)
                pin = self._stream is not None
                buffer = torch.empty(size, dtype=torch.uint8, pin_memory=pin)
            yield buffer
        finally:
            self._free.put(buffer)

    def _wait(self) -> None:
        if self._stream is not None:
            # Blocking is asleep, not spinning on a core.
            event = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
            event.record(self._stream)
            event.synchronize()


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


def is_breaking(error: RuntimeError) -> bool:
    """Whether the device cannot be used after this error until the process is started anew.

    Example:
        >>> is_breaking(RuntimeError("CUDA error: an illegal memory access was encountered"))
        True
        >>> is_breaking(RuntimeError("CUDA error: out of memory"))
        False
    """
    line = _first_line(error)
    if isinstance(error, torch.OutOfMemoryError) or any(text in line for text in _PASSING_ERRORS):
        return False
    return isinstance(error, torch.AcceleratorError) or any(text in line for text in _CUDA_ERRORS)


def _is_out_of_memory(error: RuntimeError) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "out of memory" in _first_line(error)


def _first_line(error: RuntimeError) -> str:
    return str(error).partition("\n")[0]


def _bytes_of(array: Array) -> Array:
    if not array.flags.c_contiguous:
        raise ValueError("results need contiguous arrays")  # else a copy would be filled
    return array.reshape(-1).view(np.uint8)
