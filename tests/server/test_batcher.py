"""Batches, in a time that jumps from event to event, with an engine that tells of its work."""

from __future__ import annotations

import asyncio
import selectors
import threading
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cass_core import BoxBatch, MaskSpec, generate_mask
from cass_core.arrays import storage_dtype
from cass_core.masks import MaskInputs, compute_masks
from cass_core.scenes import street_boxes
from cass_server.batcher import Batcher, BatchJob, Closed, EngineBroken, Expired, Output, merge

WINDOW = 10
WORK = 100
SPEC = MaskSpec(patch_size=1)
PATCHES = 16
"""Of one image of `job`."""


class JumpingSelector(selectors.DefaultSelector):
    """Instead of waiting it moves the time; nothing to wait for is a deadlock."""

    now = 0.0

    def select(self, timeout: float | None = None) -> Any:
        """Events, if there are any now."""
        events = super().select(0)
        if not events:
            assert timeout is not None, "everything waits for something else"
            self.now += timeout
        return events


def simulate(main: Coroutine[Any, Any, None]) -> None:
    """Run in a loop of such a time, which begins at 0."""
    selector = JumpingSelector()
    loop = asyncio.SelectorEventLoop(selector)
    loop.time = lambda: selector.now
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        runner.run(main)


def now() -> float:
    return round(asyncio.get_running_loop().time(), 3)


class Engine(Executor):
    """Writes a box's x1 to all patches of its image, `WORK` after it is asked to.

    Attributes:
        launches: when each began, and the x1 of the first box of each request in it.
        errors: what to raise, once each, where a request of that x1 is in a launch.
        reported: what the batcher told of its launches.
    """

    def __init__(self) -> None:
        self.launches: list[tuple[float, list[int]]] = []
        self.errors: dict[int, list[Exception]] = {}
        self.reported: list[int] = []
        self._is_busy = False

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """See `Executor`; in the loop's thread."""
        assert not self._is_busy, "two launches at a time"
        self._is_busy = True
        future: Future[Any] = Future()
        future.set_running_or_notify_cancel()
        start = now()

        def run() -> None:
            self._is_busy = False
            self.launches.append((start, []))
            try:
                future.set_result(fn(*args))
            except Exception as error:
                future.set_exception(error)

        asyncio.get_running_loop().call_later(WORK, run)
        return future

    def fill(self, inputs: MaskInputs, outputs: Sequence[Output]) -> None:
        """The batcher's `Compute`."""
        x1 = np.asarray(inputs.boxes.xyxy)[inputs.boxes.offsets[:-1], 0]
        stop = 0
        names = self.launches[-1][1]
        for masks, _ in outputs:
            start, stop = stop, stop + len(masks[0])
            names.append(int(x1[start]))
            for mask in masks:
                mask[...] = x1[start:stop, None, None]
        assert stop == inputs.boxes.num_images
        for name in names:
            if self.errors.get(name):
                raise self.errors[name].pop()

    def batcher(self, **changes: Any) -> Batcher:
        """One without bounds."""
        arguments = {"window_seconds": WINDOW, "max_patches": 1 << 20, "max_boxes": 1 << 20}
        return Batcher(self.fill, self, launched=self.reported.append, **arguments | changes)


def job(
    name: int,
    images: int = 1,
    boxes: int = 1,
    expires: float | None = None,
    **changes: Any,
) -> BatchJob:
    """Every box begins at x1 = ``name``."""
    xyxy = np.tile(np.array([name, 0, name, 1], np.float32), (images * boxes, 1))
    arguments: dict[str, Any] = {
        "image_size": (32, 32),
        "feature_map": (4, 4),
        "spec": SPEC,
        "dtype": "float32",
        "return_owner": False,
    }
    batch = BoxBatch(xyxy, np.full(images, boxes))
    inputs = MaskInputs.check(batch, **arguments | changes)
    return unfilled(inputs, expires)


def unfilled(
    inputs: MaskInputs,
    expires: float | None = None,
) -> BatchJob:
    masks = [np.full(shape, 77, storage_dtype(inputs.dtype)) for shape in inputs.shapes()]
    owners = [np.full(mask.shape, 77, np.int32) for mask in masks] if inputs.return_owner else []
    return BatchJob(inputs, masks, owners, expires)


class Outcome(NamedTuple):
    """When a job was answered, and with which error."""

    time: float
    error: BaseException | None


async def outcome(batcher: Batcher, job: BatchJob) -> Outcome:
    try:
        await batcher.fill(job)
    except (Exception, asyncio.CancelledError) as error:
        return Outcome(now(), error)
    return Outcome(now(), None)


async def outcomes(
    batcher: Batcher, *jobs: tuple[float, BatchJob], leaves: Mapping[int, float] | None = None
) -> list[Outcome]:
    """Of jobs that arrive at these times; those of one time in this order.

    Who ``leaves`` at a time is cancelled then.
    """
    tasks = {}
    for i in sorted(range(len(jobs)), key=lambda i: jobs[i][0]):
        arrival, job = jobs[i]
        await asyncio.sleep(max(0, arrival - now()))
        tasks[i] = asyncio.create_task(outcome(batcher, job))
        if leaves is not None and i in leaves:
            asyncio.get_running_loop().call_at(leaves[i], tasks[i].cancel)
    return [await tasks[i] for i in range(len(jobs))]


def kinds(found: list[Outcome]) -> list[type | None]:
    return [None if one.error is None else type(one.error) for one in found]


def test_an_idle_engine_is_given_work_at_once() -> None:
    async def main() -> None:
        engine = Engine()
        first, second = job(1), job(2)
        found = await outcomes(engine.batcher(), (0, first), (150, second))
        assert engine.launches == [(0, [1]), (150, [2])]
        assert found == [(100, None), (250, None)]
        assert (first.masks[0] == 1).all()
        assert (second.masks[0] == 2).all()

    simulate(main())


def test_what_arrives_at_one_moment_goes_together() -> None:
    async def main() -> None:
        engine = Engine()
        await outcomes(engine.batcher(), (0, job(1)), (0, job(2)), (0, job(3)))
        assert engine.launches == [(0, [1, 2, 3])]
        assert engine.reported == [3]

    simulate(main())


def test_arrivals_gather_while_the_engine_is_busy() -> None:
    async def main() -> None:
        engine = Engine()
        jobs = [(0, job(1)), (30, job(2, images=3)), (60, job(3, boxes=2)), (90, job(4))]
        found = await outcomes(engine.batcher(), *jobs)
        assert engine.launches == [(0, [1]), (100, [2, 3, 4])]
        assert found == [(100, None), (200, None), (200, None), (200, None)]
        for _, filled in jobs:
            assert (filled.masks[0] == np.asarray(filled.inputs.boxes.xyxy)[0, 0]).all()

    simulate(main())


def test_the_window_begins_with_the_first_arrival() -> None:
    """The engine is free at 100, and the first to wait has waited 5 of 10 by then."""

    async def main() -> None:
        engine = Engine()
        jobs = (0, job(1)), (95, job(2)), (97, job(3)), (104, job(4)), (106, job(5))
        await outcomes(engine.batcher(), *jobs)
        assert engine.launches == [(0, [1]), (105, [2, 3, 4]), (205, [5])]

    simulate(main())


@pytest.mark.parametrize("bound", [{"max_patches": 3 * PATCHES}, {"max_boxes": 3}])
def test_a_launch_is_bounded(bound: dict[str, int]) -> None:
    async def main() -> None:
        engine = Engine()
        jobs = [(50, job(name)) for name in range(2, 9)]
        await outcomes(engine.batcher(**bound), (0, job(1)), *jobs)
        assert engine.launches == [(0, [1]), (100, [2, 3, 4]), (200, [5, 6, 7]), (300, [8])]
        assert engine.reported == [1, 3, 3, 1]

    simulate(main())


def test_a_job_beyond_the_bounds_goes_alone() -> None:
    async def main() -> None:
        engine = Engine()
        sizes = {2: 1, 3: 1, 4: 9, 5: 1, 6: 1}
        jobs = [(50, job(name, images)) for name, images in sizes.items()]
        await outcomes(engine.batcher(max_patches=3 * PATCHES), (0, job(1)), *jobs)
        assert engine.launches == [(0, [1]), (100, [2, 3]), (200, [4]), (300, [5, 6])]

    simulate(main())


@pytest.mark.parametrize("bound", [{"max_patches": 2 * PATCHES}, {"max_boxes": 2}])
def test_a_full_launch_does_not_wait_for_the_window(bound: dict[str, int]) -> None:
    async def main() -> None:
        engine = Engine()
        jobs = (0, job(1)), (96, job(2)), (97, job(3)), (198, job(4)), (203, job(5))
        await outcomes(engine.batcher(**bound), *jobs)
        assert engine.launches == [(0, [1]), (100, [2, 3]), (203, [4, 5])]

    simulate(main())


@pytest.mark.parametrize("bound", [{"max_patches": 2 * PATCHES}, {"max_boxes": 2}])
def test_what_a_full_launch_leaves_waits_for_the_window(bound: dict[str, int]) -> None:
    async def main() -> None:
        engine = Engine()
        jobs = (0, job(1)), (50, job(2)), (50, job(3)), (98, job(4))
        await outcomes(engine.batcher(window_seconds=300, **bound), *jobs)
        assert engine.launches == [(0, [1]), (100, [2, 3]), (398, [4])]

    simulate(main())


@pytest.mark.parametrize(
    "other",
    [
        {"spec": SPEC.replace(expansion_ratio=0.5)},
        {"feature_map": (4, 5)},
        {"feature_map": [(4, 4), (2, 2)]},
        {"dtype": "uint8"},
        {"return_owner": True},
    ],
)
def test_only_what_is_alike_goes_together(other: dict[str, Any]) -> None:
    """Groups in the order of their first arrival."""

    async def main() -> None:
        engine = Engine()
        jobs = (20, job(2)), (21, job(3, **other)), (22, job(4)), (23, job(5, **other))
        await outcomes(engine.batcher(), (0, job(1)), *jobs)
        assert engine.launches == [(0, [1]), (100, [2, 4]), (200, [3, 5])]

    simulate(main())


def test_sizes_of_images_may_differ() -> None:
    async def main() -> None:
        engine = Engine()
        jobs = [(20, job(2)), (21, job(3, 2, image_size=[(8, 8), (9, 9)]))]
        await outcomes(engine.batcher(), (0, job(1)), *jobs)
        assert engine.launches == [(0, [1]), (100, [2, 3])]

    simulate(main())


def test_nobody_starves() -> None:
    """A pair fills a launch; the odd one is next once it has waited longest, full or not."""

    async def main() -> None:
        engine = Engine()
        pairs = [(50 + name, job(name)) for name in (10, 11, 13, 14, 15, 16)]
        odd = (62, job(12, dtype="uint8"))
        await outcomes(engine.batcher(max_boxes=2), (0, job(1)), *pairs, odd)
        names = [names for _, names in engine.launches]
        assert names == [[1], [10, 11], [12], [13, 14], [15, 16]]

    simulate(main())


def test_who_waits_longest_goes_first_where_another_group_is_full() -> None:
    """At once then: nothing is gained by an idle engine."""

    async def main() -> None:
        engine = Engine()
        full = [(98, job(3)), (98, job(4))]
        odd = (97, job(2, dtype="uint8"))
        await outcomes(engine.batcher(max_boxes=2), (0, job(1)), odd, *full)
        assert engine.launches == [(0, [1]), (100, [2]), (200, [3, 4])]

    simulate(main())


def test_a_cancelled_wait_is_not_computed() -> None:
    async def main() -> None:
        engine = Engine()
        batcher = engine.batcher()
        tasks = [asyncio.create_task(batcher.fill(job(name))) for name in (1, 2)]
        await asyncio.sleep(1)  # both are being computed
        tasks += [asyncio.create_task(batcher.fill(job(name))) for name in (3, 4)]
        await asyncio.sleep(1)
        tasks[0].cancel()
        tasks[2].cancel()
        found = await asyncio.gather(*tasks, return_exceptions=True)
        assert engine.launches == [(0, [1, 2]), (100, [4])]
        assert [type(one) for one in found[::2]] == [asyncio.CancelledError] * 2
        assert found[1::2] == [None, None]

    simulate(main())


def test_who_is_out_of_time_is_not_computed() -> None:
    async def main() -> None:
        engine = Engine()
        jobs = [(50, job(name, expires=time)) for name, time in ((2, 101), (3, 100), (4, 60))]
        found = await outcomes(engine.batcher(), (0, job(1, expires=20)), *jobs)
        assert engine.launches == [(0, [1]), (100, [2])]
        assert kinds(found) == [None, None, Expired, Expired]
        assert found[3].time == 100

    simulate(main())


def test_a_group_of_which_all_have_gone_is_passed_over() -> None:
    async def main() -> None:
        engine = Engine()
        jobs = [(50, job(2, expires=60)), (51, job(3, dtype="uint8"))]
        found = await outcomes(engine.batcher(), (0, job(1)), *jobs)
        assert engine.launches == [(0, [1]), (100, [3])]
        assert kinds(found) == [None, Expired, None]

    simulate(main())


def test_who_has_gone_takes_no_room() -> None:
    async def main() -> None:
        engine = Engine()
        jobs = [(50, job(2)), (50, job(3, boxes=9, expires=60)), (50, job(4)), (50, job(5))]
        await outcomes(engine.batcher(max_boxes=2), (0, job(1)), *jobs)
        assert engine.launches == [(0, [1]), (100, [2, 4]), (200, [5])]

    simulate(main())


@pytest.mark.parametrize("times", [1, 2])
def test_one_failure_is_not_its_neighbours(times: int) -> None:
    """Each is computed alone then; and who fails again is told."""

    async def main() -> None:
        engine = Engine()
        engine.errors[3] = [ValueError("bad") for _ in range(times)]
        jobs = [(50, job(name)) for name in (2, 3, 4)]
        found = await outcomes(engine.batcher(), (0, job(1)), *jobs)
        names = [names for _, names in engine.launches]
        assert names == [[1], [2, 3, 4], [2], [3], [4]]
        assert engine.reported == [1, 3, 1, 1, 1]
        assert kinds(found) == [None, None, ValueError if times == 2 else None, None]
        assert [one.time for one in found] == [100, 300, 400, 500]

    simulate(main())


def test_who_failed_alone_is_not_computed_again() -> None:
    async def main() -> None:
        engine = Engine()
        engine.errors[1] = [ValueError("bad")]
        batcher = engine.batcher()
        assert kinds(await outcomes(batcher, (0, job(1)))) == [ValueError]
        assert kinds(await outcomes(batcher, (0, job(2)))) == [None]
        assert engine.launches == [(0, [1]), (100, [2])]

    simulate(main())


def test_who_is_out_of_time_is_not_computed_after_a_failure() -> None:
    async def main() -> None:
        engine = Engine()
        engine.errors[2] = [ValueError("bad")]
        jobs = [(50, job(2)), (50, job(3, expires=250))]
        found = await outcomes(engine.batcher(), (0, job(1)), *jobs)
        assert engine.launches == [(0, [1]), (100, [2, 3]), (200, [2])]
        assert kinds(found) == [None, None, Expired]

    simulate(main())


@pytest.mark.parametrize(
    ("errors", "launches"),
    [
        ([EngineBroken("broken")], [[1], [2, 3]]),
        # Raised from the last: broken when computed alone.
        ([EngineBroken("broken"), ValueError("bad")], [[1], [2, 3], [2]]),
    ],
)
def test_a_broken_device_fails_everybody(errors: list[Exception], launches: list[Any]) -> None:
    async def main() -> None:
        engine = Engine()
        engine.errors[2] = errors
        batcher = engine.batcher()
        waiting = [(50, job(2)), (50, job(3)), (150, job(4)), (151, job(5, dtype="uint8"))]
        found = await outcomes(batcher, (0, job(1)), *waiting)
        assert [names for _, names in engine.launches] == launches
        assert kinds(found) == [None] + [EngineBroken] * 4
        assert len({one.time for one in found[1:]}) == 1
        later = await outcomes(batcher, (now(), job(6)), (now(), job(7)))
        assert kinds(later) == [EngineBroken] * 2
        assert later[0].time == found[1].time
        assert len(engine.launches) == len(launches)

    simulate(main())


def test_closing_answers_all_who_wait() -> None:
    """At once, also those that a thread computes, and those that come later."""

    async def main() -> None:
        engine = Engine()
        batcher = engine.batcher()

        async def close() -> float:
            await asyncio.sleep(60)
            await batcher.close()
            return now()

        closing = asyncio.create_task(close())
        jobs = (0, job(1)), (0, job(2)), (50, job(3)), (51, job(4, dtype="uint8")), (70, job(5))
        found = await outcomes(batcher, *jobs)
        assert kinds(found) == [Closed] * 5
        assert [one.time for one in found] == [60, 60, 60, 60, 70]
        assert await closing == 60
        await asyncio.sleep(100)
        assert engine.launches == [(0, [1, 2])]  # left to its thread

    simulate(main())


@pytest.mark.parametrize("steps", range(5))
def test_closing_at_any_step_of_a_launch(steps: int) -> None:
    async def main() -> None:
        engine = Engine()
        batcher = engine.batcher()
        filled = asyncio.create_task(outcome(batcher, job(1)))
        for _ in range(steps):
            await asyncio.sleep(0)
        await batcher.close()
        assert kinds([await filled]) == [Closed]
        await batcher.close()

    simulate(main())


def test_the_event_loop_stays_free() -> None:
    """Real threads: the computation ends when the loop says so, and uses the job's arrays."""
    release = threading.Event()

    def compute(inputs: MaskInputs, outputs: Sequence[Output]) -> None:
        assert release.wait(30)
        compute_really(inputs, outputs)

    def launched(size: int) -> None:
        asyncio.get_running_loop().call_soon(release.set)

    async def main() -> None:
        with ThreadPoolExecutor(1) as executor:
            batcher = Batcher(
                compute,
                executor,
                window_seconds=0,
                max_patches=1 << 20,
                max_boxes=1 << 20,
                launched=launched,
            )
            filled = job(5)
            await asyncio.wait_for(batcher.fill(filled), 30)
            assert not (filled.masks[0] == 77).any()
            await batcher.close()

    asyncio.run(main())


def compute_really(inputs: MaskInputs, outputs: Sequence[Output]) -> None:
    """By the CPU's loops."""
    masks, owners = compute_masks(inputs)
    stop = 0
    for output in outputs:
        start, stop = stop, stop + len(output[0][0])
        for ours, theirs in zip((*output[0], *output[1]), (*masks, *owners), strict=True):
            ours[...] = theirs[start:stop]
    assert stop == inputs.boxes.num_images


@pytest.mark.parametrize("return_owner", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "uint8"])
def test_merged_numbers_are_those_of_single_requests(dtype: str, return_owner: bool) -> None:
    """Bit by bit; image sizes one for all, one each, and none."""
    size, maps = (96, 160), [(12, 20), (6, 10)]
    street = street_boxes(6, 5, image_size=size, seed=3)
    arguments = [
        (street[:2], size),
        ([street[2], np.empty((0, 4), np.float32)], [(96, 160), (64, 100)]),
        ([], []),
        ([], size),
        (street[3:], (90, 150)),
    ]
    jobs = [
        unfilled(MaskInputs.check(boxes, sizes, maps, SPEC, dtype, return_owner))
        for boxes, sizes in arguments
    ]
    compute_really(merge([job.inputs for job in jobs]), [(job.masks, job.owners) for job in jobs])
    for (boxes, sizes), filled in zip(arguments, jobs, strict=True):
        expected = generate_mask(boxes, sizes, maps, SPEC, dtype=dtype, return_owner=return_owner)
        masks, owners = expected if return_owner else (expected, [])
        for ours, theirs in zip((*filled.masks, *filled.owners), (*masks, *owners), strict=True):
            assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)
            assert ours.tobytes() == theirs.tobytes()
    assert jobs[0].masks[0].max() > 0


def test_one_size_for_all_stays_one() -> None:
    """Which saves its way to the device."""
    assert merge([job(1).inputs, job(2, 3).inputs]).sizes.tolist() == [[32, 32]]
    differing = [job(1).inputs, job(2, 2, image_size=(16, 32)).inputs]
    assert merge(differing).sizes.tolist() == [[32, 32], [16, 32], [16, 32]]


class Arrival(NamedTuple):
    """One request of a random schedule."""

    time: int
    images: int
    boxes: int
    dtype: str
    patience: int | None
    leaves_after: int | None
    failures: int


arrivals = st.builds(
    Arrival,
    time=st.integers(0, 5 * WORK),
    images=st.integers(1, 4),
    boxes=st.integers(1, 3),
    dtype=st.sampled_from(["float32", "float16"]),
    patience=st.none() | st.integers(0, 3 * WORK),
    leaves_after=st.none() | st.integers(0, 3 * WORK),
    failures=st.sampled_from([0, 0, 0, 1, 9]),
)


@given(
    st.lists(arrivals, max_size=25),
    st.integers(1, 12),
    st.integers(1, 12),
    st.sampled_from([0, WINDOW, 3 * WORK]),
)
def test_everybody_gets_its_own_answer(
    schedule: list[Arrival], max_images: int, max_boxes: int, window: int
) -> None:
    """Whatever arrives when: an answer, or an error that this request has earned."""

    async def main() -> None:
        engine = Engine()
        bounds = {"max_patches": max_images * PATCHES, "max_boxes": max_boxes}
        batcher = engine.batcher(window_seconds=window, **bounds)
        jobs = []
        for name, entry in enumerate(schedule):
            engine.errors[name] = [ValueError(name) for _ in range(entry.failures)]
            expires = None if entry.patience is None else entry.time + entry.patience
            jobs.append(job(name, entry.images, entry.boxes, expires, dtype=entry.dtype))
        # Half a tick later, when the wait has begun.
        leaves = {
            name: entry.time + entry.leaves_after + 0.5
            for name, entry in enumerate(schedule)
            if entry.leaves_after is not None
        }
        arriving = ((entry.time, job) for entry, job in zip(schedule, jobs, strict=True))
        found = await outcomes(batcher, *arriving, leaves=leaves)
        launched = {name: start for start, names in engine.launches for name in names}
        for name, (entry, one, (time, error)) in enumerate(zip(schedule, jobs, found, strict=True)):
            if error is None:
                assert (one.masks[0] == name).all()
                assert time == launched[name] + WORK
            elif isinstance(error, Expired):
                assert entry.patience is not None
                assert time >= entry.time + entry.patience
            elif isinstance(error, asyncio.CancelledError):
                assert entry.leaves_after is not None
                assert time == entry.time + entry.leaves_after + 0.5
            else:
                assert isinstance(error, ValueError)
                assert entry.failures
                assert error.args == (name,)
        for _, names in engine.launches:
            requests = [schedule[name] for name in names]
            assert len({entry.dtype for entry in requests}) == 1
            if len(names) > 1:
                assert sum(entry.images for entry in requests) <= max_images
                assert sum(entry.images * entry.boxes for entry in requests) <= max_boxes

    simulate(main())
