"""A lost replica, really: what became of the calls of loaders whose server was killed."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from contextlib import ExitStack
from statistics import median
from typing import Any

from benchmarks.common.watched_server import watched_server
from benchmarks.common.workload import IMAGE_SIZE, IMAGES, MAPS, SPEC
from benchmarks.fleet.measure import Kind
from cass_client import AsyncCassClient
from cass_core.errors import CassError
from cass_core.synthetic import street_boxes

LOADERS = 16
_BEFORE_SECONDS, _AFTER_SECONDS = 1.0, 1.5
# Longer than any call takes that the loss does not hit, shorter than any that it hits.
HIT_SECONDS = 0.12


async def lose(kind: Kind, core: int) -> dict[str, float]:
    """Kill one of two servers, on one core, under loaders that do not think.

    Args:
        kind: what they ask for.
        core: of the servers.

    Returns:
        How many calls the loss hit and how many failed, and the median and the longest of the
        seconds that those hit took.
    """
    latencies: list[float] = []
    failed = 0
    with ExitStack() as stack:
        servers = [
            stack.enter_context(watched_server("--device", "cpu", core=core)) for _ in range(2)
        ]
        target = ",".join(server.address for server in servers)
        feature_map, boxes = MAPS[kind.stride]
        arrays = street_boxes(IMAGES, boxes, image_size=IMAGE_SIZE)
        end = time.perf_counter() + _BEFORE_SECONDS + _AFTER_SECONDS

        async def loader() -> None:
            nonlocal failed
            async with AsyncCassClient(target) as client:
                while (begun := time.perf_counter()) < end:
                    try:
                        await client.generate_mask(
                            arrays, IMAGE_SIZE, feature_map, SPEC, dtype=kind.dtype
                        )
                    except CassError:
                        failed += 1
                    if begun > end - _AFTER_SECONDS - HIT_SECONDS:
                        latencies.append(time.perf_counter() - begun)

        async def kill() -> None:
            await asyncio.sleep(_BEFORE_SECONDS)
            os.kill(servers[0].pids()[0], signal.SIGKILL)

        await asyncio.gather(kill(), *(loader() for _ in range(LOADERS)))
    hit = [seconds for seconds in latencies if seconds > HIT_SECONDS]
    return summary(hit, failed)


def summary(hit: list[float], failed: int) -> dict[str, Any]:
    """Numbers of the calls that a loss hit."""
    return {
        "hit": len(hit),
        "failed": failed,
        "median_seconds": median(hit) if hit else 0.0,
        "longest_seconds": max(hit, default=0.0),
    }
