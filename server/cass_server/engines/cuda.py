"""Computes on an NVIDIA GPU with the Triton kernels of `cass_core.ops`."""

from __future__ import annotations

import contextlib
import logging
import math
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from cass_core.arrays import Array, storage_dtype
from cass_core.cpu.backend import check_summed, refuse_bad_target
from cass_core.inputs import LossInputs, MaskInputs
from cass_core.ops.backend import make_masks, take_loss
from cass_core.results import HostLoss
from cass_server.engines.compiler import Compiler
from cass_server.engines.faults import first_line, is_breaking, is_out_of_memory
from cass_server.engines.placing import Upload
from cass_server.engines.staging import Staging
from cass_server.engines.variants import Variants
from cass_server.engines.warm_up import first_calls, further_calls, warm_up
from cass_server.engines.watchdog import Watchdog
from cass_server.exceptions import DeviceFull, EngineBroken
from cass_server.observability.metrics import Metrics
from cass_server.scheduling.batcher import Output

# Pinned memory is taken from the whole machine: at most this much, however large an answer is.
# More bytes go through it in turn; more callers than buffers wait for one.
_STAGING_BUFFERS = 4
_STAGING_BYTES = 32 << 20
# To ask torch how much memory it holds takes 95 µs.
_SAMPLE_SECONDS = 0.5
# After so long on average a request that found the device's memory full is worth another try.
_RETRY_SECONDS = 1.0

_log = logging.getLogger(__name__)


class CudaEngine:
    """See `cass_server.engines.base.Engine`; safe to call from several threads.

    A caller waits for its own work alone: what it enqueues goes to a stream that only this
    engine uses, and an event marks its end. The device and the stream stay current in the threads
    that called the engine.

    Args:
        device: ``cuda:N``. On ``cpu`` the operators run without streams and pinned memory.
        launch_seconds: that a computation may take, before the device counts as broken.
        compilers: most processes that compile kernels, aside from the calls; with 0 a launch
            compiles what it needs.
    """

    small_fill = None

    def __init__(self, device: str, launch_seconds: float = math.inf, compilers: int = 0) -> None:
        self.device = device
        self._device = torch.device(device)
        on_gpu = self._device.type == "cuda"
        self._stream = (
            torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
            if on_gpu
            else None
        )
        self._current = threading.local()
        self._staging = Staging(self._stream, _STAGING_BUFFERS, _STAGING_BYTES)
        self._watchdog = Watchdog(launch_seconds)
        self._launch_seconds = launch_seconds
        self._compilers = compilers
        self._compiler = Compiler(compilers, lambda seconds: self._metrics.kernel_compiled(seconds))
        self._variants = Variants(
            self._compiler.compile, lambda origin: self._metrics.kernel_loaded(origin)
        )
        self._metrics = Metrics()
        self._broken: str | None = None
        self._memory_bytes = 0
        self._next_sample = 0.0

    def masks(
        self,
        inputs: MaskInputs,
        masks: Sequence[Array],
        owners: Sequence[Array],
        checkpoint: Callable[[], None] | None = None,
        weights: Sequence[Array] = (),
    ) -> None:
        """See `Engine`."""
        self._fill(inputs, [(array,) for array in (*masks, *owners, *weights)])

    def fill_batch(self, inputs: MaskInputs, outputs: Sequence[Output]) -> None:
        """Computes the masks of several requests, whose images follow each other in the inputs.

        Raises:
            EngineBroken: the device is broken.
            DeviceFull: it has too little memory.
        """
        of_masks = zip(*(output[0] for output in outputs), strict=True)
        of_owners = zip(*(output[1] for output in outputs), strict=True)
        self._fill(inputs, [*of_masks, *of_owners])

    def _fill(self, inputs: MaskInputs, arrays: Sequence[Sequence[Array]]) -> None:
        upload = Upload(self._device)
        placed = upload.masks(inputs)
        wanted = max(upload.num_bytes, sum(array.nbytes for parts in arrays for array in parts))
        with self._use(), self._staging.buffer(wanted) as buffer:
            upload.send(self._staging, buffer)
            found = [array for part in make_masks(placed(), self._device) for array in part]
            self._staging.fetch(found, arrays, buffer)

    def losses(self, inputs: LossInputs, checkpoint: Callable[[], None] | None = None) -> HostLoss:
        """See `Engine`."""
        shape, per_patch = inputs.logits.shape, inputs.spec.reduction == "none"
        real = np.float64 if inputs.logits_dtype == "float64" else np.float32
        loss, total = np.empty(shape if per_patch else (), real), np.empty((), real)
        normalizer = np.empty((), np.float64)
        grad = np.empty(shape, storage_dtype(inputs.logits_dtype)) if inputs.return_grad else None
        upload = Upload(self._device)
        placed = upload.losses(inputs)
        wanted = max(upload.num_bytes, loss.nbytes + (0 if grad is None else grad.nbytes) + 16)
        with self._use(), self._staging.buffer(wanted) as buffer:
            upload.send(self._staging, buffer)
            logits, target, weights = placed()
            result = take_loss(
                logits, target, inputs.spec, inputs.num_boxes, grad is not None, weights
            )
            on_device, on_host = [result.loss, result.sum], [(loss,), (total,)]
            if isinstance(result.normalizer, Tensor):
                on_device.append(result.normalizer)
                on_host.append((normalizer,))
            else:
                normalizer[...] = result.normalizer
            if grad is not None:
                on_device.append(result.grad)
                on_host.append((grad,))
            self._staging.fetch(on_device, on_host, buffer)
        if math.isnan(total):
            self._refuse_target(inputs)
        return HostLoss(loss, float(total), float(normalizer), grad)

    def gpu_memory_bytes(self) -> int:
        """Bytes of device memory that this process held for tensors, in use or not, lately."""
        return self._memory_bytes

    def watch(self, metrics: Metrics, on_hang: Callable[[], None]) -> None:
        """See `Engine`."""

        def on_late() -> None:
            self._broken = f"{self.device} hangs: no answer in {self._launch_seconds:g} s"
            _log.error("the device hangs", extra={"device": self.device, "reason": self._broken})
            on_hang()

        self._metrics = metrics
        if math.isfinite(self._launch_seconds):
            self._watchdog.start(on_late)

    def warm_up(self) -> None:
        """See `Engine`; variants for what is beyond the defaults follow while it computes."""
        begun = time.monotonic()
        warm_up(self, first_calls(), max(1, self._compilers))
        if not self._compilers:
            return
        self._compiler.close(keep=1)

        def further() -> None:
            try:
                warm_up(self, further_calls(), 1)
            except Exception:  # what is left is compiled when it is needed
                _log.exception("not all kernels are warm")
                return
            seconds = round(time.monotonic() - begun, 3)
            _log.info("kernels warm", extra={"device": self.device, "seconds": seconds})

        threading.Thread(target=further, name="warm-up", daemon=True).start()

    def close(self) -> None:
        """Watches no more, and ends the processes that compile."""
        self._watchdog.close()
        self._compiler.close()

    @contextlib.contextmanager
    def _use(self) -> Iterator[None]:
        """Work on the engine's stream; see `is_breaking` for the errors that are final."""
        if self._broken is not None:
            raise EngineBroken(self._broken)
        self._make_current()
        try:
            compiles = self._variants.checked() if self._compilers else contextlib.nullcontext()
            with self._watchdog.watched(), compiles:
                yield
        except RuntimeError as error:
            if is_breaking(error):
                self._broken = f"{self.device} is broken: {first_line(error)}"
                raise EngineBroken(self._broken) from error
            if not is_out_of_memory(error):
                raise
            # Other processes on the device may need what lies idle here.
            torch.cuda.empty_cache()
            reason = first_line(error)
            _log.warning("memory is short", extra={"device": self.device, "reason": reason})
            # At times of their own, or all who found it full would come back at once.
            raise DeviceFull(_RETRY_SECONDS * random.uniform(0.5, 1.5)) from error
        self._sample_memory()

    def _make_current(self) -> None:
        """Make device and stream this thread's, once: to go back to another device's stream, as
        the end of `torch.cuda.stream` does, makes a context on that device."""
        if self._stream is not None and not hasattr(self._current, "is_set"):
            torch.cuda.set_device(self._device)
            torch.cuda.set_stream(self._stream)
            self._current.is_set = True

    def _sample_memory(self) -> None:
        """Now, when the device has just answered: while it hangs, torch's allocator may do so too,
        with Python's lock."""
        if self._stream is not None and time.monotonic() >= self._next_sample:
            self._next_sample = time.monotonic() + _SAMPLE_SECONDS
            self._memory_bytes = torch.cuda.memory_reserved(self._device)

    def _refuse_target(self, inputs: LossInputs) -> None:
        """The kernels answer NaN to a target outside [0, 1]: raise, if it was that."""
        if inputs.target is not None:
            refuse_bad_target(inputs.target, inputs.target_dtype)
        elif inputs.mask is not None and inputs.mask.spec.merge == "sum":
            mask = np.empty(inputs.mask.shapes()[0], storage_dtype(inputs.mask.dtype))
            self.masks(inputs.mask, [mask], [])
            check_summed(float(mask.max(initial=0)))
