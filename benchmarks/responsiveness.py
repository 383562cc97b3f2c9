"""`python -m benchmarks.responsiveness`: health checks beside the largest requests.

What is sent lies at the server's default limits, or just below what it computes on its event loop.
"""

from __future__ import annotations

import multiprocessing
import struct
import subprocess
import sys
import time
from bisect import bisect_left
from collections.abc import Callable
from functools import partial
from multiprocessing.synchronize import Event
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import grpc
import typer
from grpc_health.v1 import health_pb2, health_pb2_grpc
from rich.console import Console
from rich.table import Table

from benchmarks.measure import write
from benchmarks.rpc_servers import SERVICE
from cass.v1 import cass_pb2 as pb
from cass_server.engine import CpuEngine
from cass_server.jobs import read_mask
from cass_server.limits import Limits

LIMITS = Limits()
BOUND_MILLISECONDS = 50.0
WARM_UP_SECONDS = 2.0
# Between two checks, and between two looks for answers.
PAUSE_SECONDS = 0.002
MASKS, LOSS = "GenerateMask", "ComputeLoss"


def masks(boxes: int, images: int, height: int, width: int, **options: Any) -> bytes:
    """As many boxes on each of the images of 64x64, all of which they cover."""
    return pb.GenerateMaskRequest(
        boxes=pb.BoxBatch(
            xyxy=struct.pack("<4f", 0, 0, 64, 64) * (images * boxes), counts=[boxes] * images
        ),
        image_sizes=pb.ImageSizes(heights=[64], widths=[64]),
        feature_maps=[pb.FeatureMap(height=height, width=width)],
        mask_spec=pb.MaskSpec(patch_size=1, **options),
        return_owner=images == 1 and height == 4096,
    ).SerializeToString()


def most_on_the_loop(images: int, height: int, width: int, **options: Any) -> bytes:
    """The most boxes that are computed on the event loop."""
    quick = CpuEngine.quick_effort

    def effort(boxes: int) -> int:
        return read_mask(masks(boxes, images, height, width, **options), LIMITS).effort

    # A message of 256 KiB and more is for a thread.
    boxes = bisect_left(range((1 << 18) // 16 // images), quick, key=effort) - 1
    return masks(boxes, images, height, width, **options)


def loss(patches: int) -> bytes:
    """Logits of zero against a target of zero."""
    return pb.ComputeLossRequest(
        logits=pb.Tensor(dtype=pb.DATA_TYPE_FLOAT32, shape=[1, patches], data=bytes(4 * patches)),
        target=pb.Tensor(dtype=pb.DATA_TYPE_UINT8, shape=[1, patches], data=bytes(patches)),
        return_grad=True,
    ).SerializeToString()


def numbers() -> bytes:
    """A message of the largest size, all of it counts of boxes."""
    size = LIMITS.message_bytes - 64
    unset = pb.BoxBatch(xyxy=bytes(size)).SerializeToString()
    boxes = b"\x12" + unset[1:]  # the number of counts in place of that of xyxy
    message = pb.StreamMasksRequest(request=pb.GenerateMaskRequest()).SerializeToString()
    return message[:1] + pb.BoxBatch(xyxy=boxes).SerializeToString()[1:]


def repeated(field: bytes) -> bytes:
    """A message of the largest size, all of it the same field."""
    return field * (LIMITS.message_bytes // len(field) - 8)


# Of each case: method, what makes its request, and how many are in flight.
CASES: dict[str, tuple[str, Callable[[], bytes], int]] = {
    "nothing": (MASKS, bytes, 0),
    "2^24 patches and owners, 64 boxes": (MASKS, partial(masks, 64, 1, 4096, 4096), 2),
    "2^24 patches, 2^18 boxes, 4096 images": (MASKS, partial(masks, 64, 4096, 64, 64), 2),
    "64 MiB of logits": (LOSS, partial(loss, LIMITS.message_bytes // 5 - 64), 2),
    "64 MiB of counts": (MASKS, numbers, 2),
    "64 MiB of unknown fields": (MASKS, partial(repeated, b"\x78\x00"), 2),
    "64 MiB of empty feature maps": (MASKS, partial(repeated, b"\x1a\x00"), 2),
    "on the loop: 90x90": (MASKS, partial(most_on_the_loop, 1, 90, 90), 8),
    "on the loop: 90x90, linear, isotropic": (
        MASKS,
        partial(
            most_on_the_loop,
            1,
            90,
            90,
            decay_type=pb.DECAY_TYPE_LINEAR,
            use_anisotropic_gaussian=False,
        ),
        8,
    ),
    "on the loop: 1x27": (MASKS, partial(most_on_the_loop, 1, 1, 27), 8),
    "on the loop: 500x1": (MASKS, partial(most_on_the_loop, 1, 500, 1), 8),
    "on the loop: 1x1": (MASKS, partial(most_on_the_loop, 1, 1, 1), 8),
    "on the loop: 4096 images": (MASKS, partial(most_on_the_loop, 4096, 1, 1), 8),
    "on the loop: 90x90, 64 at a time": (MASKS, partial(most_on_the_loop, 1, 90, 90), 64),
    "on the loop: loss": (LOSS, partial(loss, (1 << 18) // 5 - 64), 8),
}


def load(address: str, case: str, started: Event, stop: Event) -> None:
    """Keep the requests of a case in flight, in a process of its own."""
    method, make, in_flight = CASES[case]
    data = make()
    options = (("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1))
    with grpc.insecure_channel(address, options) as channel:
        call: Any = channel.unary_unary(f"/{SERVICE}/{method}")
        running = [call.future(data) for _ in range(in_flight)]
        started.set()
        while not stop.is_set():
            for index, one in enumerate(running):
                if one.done():
                    running[index] = call.future(data)
            time.sleep(PAUSE_SECONDS)
        for one in running:
            one.cancel()


def checks(address: str, seconds: float) -> list[float]:
    """Milliseconds of each health check."""
    taken = []
    with grpc.insecure_channel(address) as channel:
        check = health_pb2_grpc.HealthStub(channel).Check
        end = time.perf_counter() + seconds
        while (start := time.perf_counter()) < end:
            check(health_pb2.HealthCheckRequest())
            taken.append((time.perf_counter() - start) * 1e3)
            time.sleep(PAUSE_SECONDS)
    return taken


def measure(case: str, seconds: float) -> dict[str, float]:
    """One case, on a server of its own."""
    context = multiprocessing.get_context("spawn")
    started, stop = context.Event(), context.Event()
    command = [sys.executable, "-m", "benchmarks.rpc_servers", "ours"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as server:
        try:
            assert server.stdout is not None
            address = f"127.0.0.1:{server.stdout.readline().strip()}"
            loader = context.Process(target=load, args=(address, case, started, stop))
            loader.start()
            started.wait()
            # The memory of the first messages is new to the process.
            first = max(checks(address, WARM_UP_SECONDS))
            taken = sorted(checks(address, seconds))
            stop.set()
            loader.join()
        finally:
            server.kill()
    return {
        "checks": len(taken),
        "median_milliseconds": median(taken),
        "p99_milliseconds": taken[len(taken) * 99 // 100],
        "worst_milliseconds": taken[-1],
        "worst_of_warm_up_milliseconds": first,
    }


def main(
    seconds: Annotated[float, typer.Option(help="Length of a case.")] = 10,
    out: Annotated[Path | None, typer.Option(help="Also write the times as JSON.")] = None,
) -> None:
    """Milliseconds of a health check while a server of one process is kept busy."""
    console = Console(width=120, highlight=False)
    table = Table(title=f"ms of a health check; the bound is {BOUND_MILLISECONDS:.0f}")
    for column in ("under way", "checks", "median", "p99", "worst", "in the first two seconds"):
        table.add_column(column, justify="left" if column == "under way" else "right")
    results = {}
    for case in CASES:
        results[case] = measure(case, seconds)
        checked, *times = results[case].values()
        table.add_row(case, f"{checked:.0f}", *(f"{value:.1f}" for value in times))
        console.print(f"{case}: {times[2]:.1f}")
    console.print(table)
    if out is not None:
        write(out, "python -m benchmarks.responsiveness", {"health_checks": results})


if __name__ == "__main__":
    typer.run(main)
