"""The families of metrics: names, labels, buckets, and what each counts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Literal

import grpc

from cass_server.observability.methods import COMPUTED_METHODS, METHODS

CODES = tuple(code.name for code in grpc.StatusCode)
DROPPED = ("rate", "full")
FILES = ("tokens", "tls")
CERTIFICATES = ("tls_certificate", "tls_client_ca")
# fmt: off
REJECTIONS = (
    "requests", "bytes", "streams", "memory", "deadline", "cancelled", "unauthenticated",
)
# fmt: on

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
    is_least: bool = False
    """The least above 0 of several workers' values counts, if there is one, not their sum."""

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
    Family(
        "cass_kernel_variants_total",
        "counter",
        "Variants of the GPU's kernels that workers loaded: from the cache, or compiled first.",
        ("origin",),
        (("cache",), ("compiled",)),
    ),
    Family(
        "cass_kernel_compile_seconds",
        "histogram",
        "What compiling a variant of a GPU's kernel took, beside the calls.",
        bounds=SECONDS,
    ),
    Family(
        "cass_log_lines_dropped_total",
        "counter",
        "Lines of the log that were not written: too many of a kind, or not read or stored.",
        ("reason",),
        tuple((reason,) for reason in DROPPED),
    ),
    Family(
        "cass_files_unusable",
        "gauge",
        "Workers that go on with the old content, as the files of today cannot be used.",
        ("files",),
        tuple((files,) for files in FILES),
    ),
    Family(
        "cass_certificate_expiry_timestamp_seconds",
        "gauge",
        "When the certificate of a setting ends, in seconds since 1970.",
        ("setting",),
        tuple((setting,) for setting in CERTIFICATES),
        is_least=True,
    ),
)
