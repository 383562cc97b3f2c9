"""What a worker counts, in slots that another process can read.

A request takes some hundred microseconds, so counting it must take a few. A family of metrics is a
range of float64 slots in memory that the worker maps, and an increment is one store. The worker
processes have a file each, which `cass_server.observability.prometheus` reads and adds up.
"""

from __future__ import annotations

import mmap
import threading
import time
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, product
from pathlib import Path
from typing import Literal

import grpc

from cass_core.errors import CassError
from cass_server.observability.call import Call

METHODS = ("GenerateMask", "ComputeLoss", "StreamMasks", "GetServerInfo")
COMPUTED_METHODS = METHODS[:3]
CODES = tuple(code.name for code in grpc.StatusCode)
REJECTIONS = ("requests", "bytes", "streams", "deadline", "cancelled", "unauthenticated")

# A small request is computed in some 50 µs; after 10 s a caller has long given up.
# fmt: off
SECONDS = (
    5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0,
)
# fmt: on
BATCH_SIZES = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0)


@dataclass(frozen=True, slots=True)
class Family:
    """Metrics of one name."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    """A gauge starts at 0 with every worker. A histogram has a slot for each bucket, one for what
    is above them all, and one for the sum of the values."""
    help: str
    labels: tuple[str, ...] = ()
    series: tuple[tuple[str, ...], ...] = ((),)
    """The values of the labels, for each series."""
    bounds: tuple[float, ...] = ()
    """Upper bounds of a histogram's buckets, inclusive."""

    @property
    def width(self) -> int:
        """Slots of one series."""
        return len(self.bounds) + 2 if self.kind == "histogram" else 1


def _seconds(name: str, help: str, methods: Sequence[str] = COMPUTED_METHODS) -> Family:
    series = tuple((method,) for method in methods)
    return Family(name, "histogram", help, ("method",), series, SECONDS)


FAMILIES = (
    Family(
        "cass_requests_total",
        "counter",
        "Requests answered; every message of a stream is one.",
        ("method", "code"),
        tuple(product(METHODS, CODES)),
    ),
    Family("cass_requests_in_flight", "gauge", "Requests taken and not yet answered."),
    Family(
        "cass_waiting_calls",
        "gauge",
        "Single calls that wait for their caller: to send the message, or to read the answer.",
        ("to",),
        (("receive",), ("send",)),
    ),
    Family("cass_held_bytes", "gauge", "Bytes of requests and answers in flight."),
    _seconds("cass_request_duration_seconds", "From a request's arrival to its answer.", METHODS),
    _seconds("cass_queue_wait_seconds", "What a request waited before it was computed."),
    _seconds("cass_compute_seconds", "What the computation of a request took."),
    _seconds("cass_encode_seconds", "What the serialisation of an answer took."),
    Family(
        "cass_batch_requests",
        "histogram",
        "Requests that were computed in one launch.",
        bounds=BATCH_SIZES,
    ),
    Family("cass_images_total", "counter", "Images in the computed requests."),
    Family("cass_boxes_total", "counter", "Boxes in the computed requests."),
    Family(
        "cass_boxes_without_patch_total",
        "counter",
        "Boxes that hold no patch centre of any of their feature maps, and so have no target.",
    ),
    Family("cass_patches_total", "counter", "Patches of the masks of the computed requests."),
    Family("cass_received_bytes_total", "counter", "Bytes of the requests' messages."),
    Family("cass_sent_bytes_total", "counter", "Bytes of the answers' messages."),
    Family(
        "cass_rejections_total",
        "counter",
        "Requests given up before they were computed, by reason.",
        ("reason",),
        tuple((reason,) for reason in REJECTIONS),
    ),
    Family("cass_gpu_memory_bytes", "gauge", "GPU memory held by the server's processes."),
)


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

_SECONDS_SUM = len(SECONDS) + 1
_BATCH_SUM = len(BATCH_SIZES) + 1


class Metrics:
    """Counts one worker's requests.

    Safe to use from several threads: an increment is a load and a store under a lock. Slots are
    aligned and stored whole. A reader in another process may see a request in one family and not
    yet in the next, which the next scrape mends. Without ``memory``, no other process can read.
    """

    def __init__(self, memory: mmap.mmap | None = None) -> None:
        # The numbers, in the order of `FAMILIES`.
        self.slots = memoryview(memory or mmap.mmap(-1, _BYTES)).cast("d")
        self._lock = threading.Lock()

    @classmethod
    def open(cls, path: Path) -> Metrics:
        """Count in a file, going on from what a worker before this one has left there.

        Its counters stay, so that they never fall; its gauges ended with it.

        Raises:
            CassError: the file cannot be written.
        """
        try:
            if not path.exists() or path.stat().st_size != _BYTES:
                # Written, not just sized: a full disk is an error here and a SIGBUS later on.
                path.write_bytes(bytes(_BYTES))
            with path.open("r+b") as file:
                metrics = cls(mmap.mmap(file.fileno(), _BYTES))
        except OSError as error:
            raise CassError(f"cannot keep metrics in {path}: {error.strerror}") from error
        for family in FAMILIES:
            if family.kind == "gauge":
                for series in range(len(family.series)):
                    metrics.slots[STARTS[family.name] + series] = 0.0
        return metrics

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
        """A request was given up before it was computed, for one of `REJECTIONS`."""
        with self._lock:
            self.slots[_REJECTED[reason]] += 1

    def waiting(self, receiving: int, sending: int, held: int) -> None:
        """Calls that wait for their callers now, and the bytes in flight."""
        self.slots[_WAITING], self.slots[_WAITING + 1] = receiving, sending
        self.slots[_HELD] = held

    def gpu_memory(self, held: int) -> None:
        """The bytes of GPU memory that this process holds now."""
        self.slots[_GPU_MEMORY] = held
