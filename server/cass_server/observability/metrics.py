"""What a worker counts, in slots that another process can read.

A request takes some hundred microseconds, so counting it must take a few. A family of metrics is a
range of float64 slots in memory that the worker maps, and an increment is one store. The worker
processes share a piece of memory each with their supervisor, which has no name in any folder that
could be full, read-only or cleaned up; `cass_server.observability.prometheus` adds them up.
"""

from __future__ import annotations

import mmap
import os
import tempfile
import threading
import time
from bisect import bisect_left
from collections.abc import Mapping
from itertools import accumulate
from typing import Literal

from cass_core.errors import CassError
from cass_server.observability.call import Call
from cass_server.observability.families import BATCH_SIZES, CODES, FAMILIES, SECONDS
from cass_server.resource_limits import exhausted

*_STARTS, SLOTS = accumulate((family.width * len(family.series) for family in FAMILIES), initial=0)
STARTS = {family.name: start for family, start in zip(FAMILIES, _STARTS, strict=True)}
"""The first slot of each family by its name."""
_BYTES = 8 * SLOTS


def _of_series(name: str) -> Mapping[str, int]:
    """The first slot of the series with each value of the first label."""
    family = next(family for family in FAMILIES if family.name == name)
    first: dict[str, int] = {}
    for index, values in enumerate(family.series):
        first.setdefault(values[0], STARTS[name] + index * family.width)
    return first


# Read once: each look-up by name costs as much as the increment.
_REQUESTS = _of_series("cass_requests_total")
_CODE = {code: index for index, code in enumerate(CODES)}
_UNKNOWN, _EXHAUSTED = _CODE["UNKNOWN"], _CODE["RESOURCE_EXHAUSTED"]
_WAITING = STARTS["cass_waiting_calls"]
_HELD = STARTS["cass_held_bytes"]
_IN_FLIGHT = STARTS["cass_requests_in_flight"]
_DURATION = _of_series("cass_request_duration_seconds")
_WAIT = _of_series("cass_queue_wait_seconds")
_COMPUTE = _of_series("cass_compute_seconds")
_ENCODE = _of_series("cass_encode_seconds")
_BATCH = STARTS["cass_batch_requests"]
_IMAGES = STARTS["cass_images_total"]
_BOXES = STARTS["cass_boxes_total"]
_WITHOUT_PATCH = STARTS["cass_boxes_without_patch_total"]
_PATCHES = STARTS["cass_patches_total"]
_RECEIVED = STARTS["cass_received_bytes_total"]
_SENT = STARTS["cass_sent_bytes_total"]
_REJECTED = _of_series("cass_rejections_total")
_GPU_MEMORY = STARTS["cass_gpu_memory_bytes"]
_VARIANTS = _of_series("cass_kernel_variants_total")
_COMPILE = STARTS["cass_kernel_compile_seconds"]
_DROPPED = _of_series("cass_log_lines_dropped_total")
_UNUSABLE = _of_series("cass_files_unusable")
_EXPIRES = _of_series("cass_certificate_expiry_timestamp_seconds")

_SECONDS_SUM = len(SECONDS) + 1
_BATCH_SUM = len(BATCH_SIZES) + 1


def shared_memory() -> int:
    """A descriptor of memory for `Metrics`, which a worker inherits.

    Raises:
        CassError: there is no room, or too many files are open.
    """
    try:
        if hasattr(os, "memfd_create"):
            descriptor = os.memfd_create("cass-metrics")
        else:  # not on Linux
            with tempfile.TemporaryFile() as file:
                descriptor = os.dup(file.fileno())
        # Written, not just sized: too little memory is an error here and a SIGBUS later on.
        os.write(descriptor, bytes(_BYTES))
    except OSError as error:
        raise CassError(f"cannot keep metrics: {exhausted(error) or error.strerror}") from error
    return descriptor


class Metrics:
    """Counts one worker's requests.

    Safe to use from several threads: an increment is a load and a store under a lock. Slots are
    aligned and stored whole. A reader in another process may see a request in one family and not
    yet in the next, which the next scrape mends. The memory is this process's own, or that of
    `shared_memory`.
    """

    def __init__(self, descriptor: int = -1) -> None:
        # The numbers, in the order of `FAMILIES`.
        self.slots = memoryview(mmap.mmap(descriptor, _BYTES)).cast("d")
        self._lock = threading.Lock()

    def restart(self) -> None:
        """The worker has ended: its gauges did so too, and its counters go on with the next one."""
        for family in FAMILIES:
            if family.kind == "gauge":
                for index in range(len(family.series)):
                    self.slots[STARTS[family.name] + index] = 0.0

    def started(self) -> None:
        """A request was taken; `finished` follows."""
        with self._lock:
            self.slots[_IN_FLIGHT] += 1

    def refused(self, method: str) -> None:
        """A call was refused for want of room, without more ado."""
        with self._lock:
            self.slots[_REQUESTS[method] + _EXHAUSTED] += 1
            self.slots[_REJECTED["requests"]] += 1

    def finished(self, call: Call) -> None:
        """A request was answered, or ended without an answer."""
        seconds = time.perf_counter() - call.started
        slots, method = self.slots, call.method
        with self._lock:
            slots[_IN_FLIGHT] -= 1
            slots[_REQUESTS[method] + _CODE.get(call.code, _UNKNOWN)] += 1
            slots[_RECEIVED] += call.received
            slots[_SENT] += call.sent
            first = _DURATION[method]
            slots[first + bisect_left(SECONDS, seconds)] += 1
            slots[first + _SECONDS_SUM] += seconds
            if call.size is None:
                return
            images, boxes, patches = call.size
            slots[_IMAGES] += images
            slots[_BOXES] += boxes
            slots[_WITHOUT_PATCH] += call.without_patch
            slots[_PATCHES] += patches
            for histograms, seconds in (
                (_WAIT, call.queue),
                (_COMPUTE, call.compute),
                (_ENCODE, call.encode),
            ):
                first = histograms[method]
                slots[first + bisect_left(SECONDS, seconds)] += 1
                slots[first + _SECONDS_SUM] += seconds

    def batched(self, size: int) -> None:
        """``size`` requests were computed in one launch."""
        with self._lock:
            self.slots[_BATCH + bisect_left(BATCH_SIZES, size)] += 1
            self.slots[_BATCH + _BATCH_SUM] += size

    def rejected(self, reason: str) -> None:
        """A request was given up before it was computed, for one of `families.REJECTIONS`."""
        with self._lock:
            self.slots[_REJECTED[reason]] += 1

    def waiting(self, receiving: int, sending: int, held: int) -> None:
        """Calls that wait for their callers now, and the bytes in flight."""
        self.slots[_WAITING], self.slots[_WAITING + 1] = receiving, sending
        self.slots[_HELD] = held

    def gpu_memory(self, held: int) -> None:
        """The bytes of GPU memory that this process holds now."""
        self.slots[_GPU_MEMORY] = held

    def kernel_loaded(self, origin: Literal["cache", "compiled"]) -> None:
        """A variant of a kernel can be launched from now on."""
        with self._lock:
            self.slots[_VARIANTS[origin]] += 1

    def kernel_variants(self) -> tuple[int, int]:
        """How many variants of kernels came from the cache, and how many were compiled."""
        return int(self.slots[_VARIANTS["cache"]]), int(self.slots[_VARIANTS["compiled"]])

    def kernel_compiled(self, seconds: float) -> None:
        """A variant of a kernel was compiled in so many seconds."""
        with self._lock:
            self.slots[_COMPILE + bisect_left(SECONDS, seconds)] += 1
            self.slots[_COMPILE + _SECONDS_SUM] += seconds

    def log_dropped(self, reason: str) -> None:
        """A line of the log was dropped, for one of `families.DROPPED`."""
        with self._lock:
            self.slots[_DROPPED[reason]] += 1

    def file_unusable(self, files: str, unusable: bool) -> None:
        """Whether the files of `families.FILES` cannot be used now."""
        self.slots[_UNUSABLE[files]] = unusable

    def certificate_expires(self, setting: str, seconds: float) -> None:
        """When the certificate of one of `families.CERTIFICATES` ends, in seconds since 1970."""
        self.slots[_EXPIRES[setting]] = seconds
