"""One job computed, here or with others, and what that took."""

from __future__ import annotations

import time
from typing import Any, NamedTuple

from cass_server.batcher import Batcher, BatchJob, Expired
from cass_server.engine import Engine
from cass_server.jobs import Job, MaskJob


class Done(NamedTuple):
    """An answer, and what it took.

    Attributes:
        message: the answer.
        wait: seconds that its request waited once it was there.
        compute: seconds of computing.
        encode: seconds of laying out the answer.
        work: its numbers of images, boxes and patches.
    """

    message: bytes
    wait: float
    compute: float
    encode: float
    work: tuple[int, int, int]


async def compute_in_batch(
    job: MaskJob, batcher: Batcher, arrived: float, expires: float | None
) -> Done:
    """Compute a job with others; what it waited is not told apart from its computation."""
    laying_out = time.perf_counter()
    frame = job.lay_out()
    begun = time.perf_counter()
    await batcher.fill(BatchJob(job.inputs, frame.masks, frame.owners, expires))
    seconds = time.perf_counter() - begun
    return Done(frame.message, laying_out - arrived, seconds, begun - laying_out, job.work)


def compute(job: Job, engine: Engine, arrived: float, expires: float | None) -> Done:
    """Compute a job, unless nobody waits for the answer any more.

    Raises:
        Expired: nobody does.
    """
    if expires is not None and time.monotonic() >= expires:
        raise Expired("the deadline passed before the request was computed")
    begun = time.perf_counter()
    frame: Any = job.lay_out()
    laid_out = time.perf_counter()
    message = job.fill(frame, engine)
    computed = time.perf_counter()
    return Done(message, begun - arrived, computed - laid_out, laid_out - begun, job.work)
