"""Batches of real threads, most of them in a time that jumps from event to event."""

from __future__ import annotations

import contextlib
import gc
import itertools
import logging
import math
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from time import monotonic
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cass_core import BoxBatch, MaskSpec, generate_mask
from cass_core.arrays import storage_dtype
from cass_core.cpu.backend import compute_masks
from cass_core.inputs import MaskInputs
from cass_core.synthetic import street_boxes
from cass_server.exceptions import Cancelled, EngineBroken, Expired, Stopping
from cass_server.scheduling import batcher as batcher_module
from cass_server.scheduling.batcher import Batcher, BatchRequest, Output, merge

WINDOW = 10
WORK = 100
LIMIT = 30
"""Real seconds after which a thread counts as hung."""
SPEC = MaskSpec(patch_size=1)
PATCHES = 16
"""Of one image of `request`."""


class Wait(threading.Event):
    """One wait of one thread, until a time of the clock or until it is woken."""

    def __init__(self, until: float) -> None:
        super().__init__()
        self.until = until


class Clock:
    """A time that stands while a thread runs, and jumps to the next event when all of them wait.

    The threads are the test's own and those that it starts; the waits are of the batcher's
    conditions, `sleep_until` and `join`. Nothing to wait for is a deadlock, which ends them all.
    """

    def __init__(self) -> None:
        self.now = 0.0
        self._lock = threading.Lock()
        self._awake = 1
        self._waits: list[Wait] = []
        self._is_stuck = False

    def sleep_until(self, until: float) -> None:
        """At least until nobody else has anything to do now."""
        self.wait(self.begin(max(until, self.now)))

    def begin(self, until: float) -> Wait:
        """A wait that can be woken from now on."""
        with self._lock:
            return self._begin(until)

    def wait(self, wait: Wait) -> None:
        """Block until the wait's time has come or it is woken."""
        with self._lock:
            self._awake -= 1
            self._advance()
        assert wait.wait(LIMIT)
        assert not self._is_stuck, "everything waits for something else"

    def wake(self, wait: Wait) -> None:
        with self._lock:
            self._wake(wait)

    def start(self, function: Callable[[], Any]) -> Task:
        """Run the function in a thread, to the point where it waits."""
        task = Task(self, function)
        with self._lock:
            self._awake += 1
        task.thread.start()
        self.sleep_until(self.now)
        return task

    def join(self, task: Task) -> Task:
        with self._lock:
            if not task.is_over:
                task.joined = self._begin(math.inf)
        if task.joined is not None:
            self.wait(task.joined)
        task.thread.join(LIMIT)
        assert not task.thread.is_alive()
        return task

    def end(self, task: Task) -> None:
        """The last that a task's thread does."""
        with self._lock:
            task.time, task.is_over = self.now, True
            if task.joined is not None:
                self._wake(task.joined)
            self._awake -= 1
            self._advance()

    def _begin(self, until: float) -> Wait:
        self._waits.append(Wait(until))
        return self._waits[-1]

    def _wake(self, wait: Wait) -> None:
        if wait in self._waits:
            self._waits.remove(wait)
            self._awake += 1
            wait.set()

    def _advance(self) -> None:
        if self._awake:
            return
        first = min(self._waits, key=lambda wait: wait.until)
        self._is_stuck = first.until == math.inf
        self.now = self.now if self._is_stuck else max(self.now, first.until)
        for wait in list(self._waits) if self._is_stuck else [first]:
            self._wake(wait)


class Task:
    """A function in a thread of its own, and how it ended: when, and with which error."""

    def __init__(self, clock: Clock, function: Callable[[], Any]) -> None:
        self.time = math.nan
        self.error: BaseException | None = None
        self.is_over = False
        self.joined: Wait | None = None
        self.thread = threading.Thread(target=self._run, args=(clock, function), daemon=True)

    def _run(self, clock: Clock, function: Callable[[], Any]) -> None:
        try:
            function()
        except BaseException as error:
            self.error = error
        clock.end(self)


class ClockCondition:
    """`threading.Condition` for one thread that waits, by the clock."""

    def __init__(self, clock: Clock, lock: Any) -> None:
        self._clock = clock
        self._lock = lock
        self._wait: Wait | None = None

    def wait(self, timeout: float) -> None:
        assert 0 < timeout <= threading.TIMEOUT_MAX
        is_endless = timeout == threading.TIMEOUT_MAX
        wait = self._wait = self._clock.begin(math.inf if is_endless else self._clock.now + timeout)
        self._lock.release()
        try:
            self._clock.wait(wait)
        finally:
            self._lock.acquire()
            self._wait = None

    def notify(self) -> None:
        if self._wait is not None:
            self._clock.wake(self._wait)


@contextlib.contextmanager
def simulated() -> Iterator[Clock]:
    """Batchers follow a clock, which begins at 0."""
    clock = Clock()
    condition = partial(ClockCondition, clock)
    with mock.patch.multiple(batcher_module, monotonic=lambda: clock.now, Condition=condition):
        yield clock


@pytest.fixture(name="clock")
def _clock() -> Iterator[Clock]:
    with simulated() as clock:
        yield clock


class Engine:
    """Writes a box's x1 to all patches of its image, `WORK` after it is called.

    Attributes:
        launches: when each began, and the x1 of the first box of each request in it.
        errors: what to raise, once each, where a request of that x1 is in a launch.
        reported: what the batcher reported of its launches.
    """

    def __init__(self, clock: Clock) -> None:
        self.launches: list[tuple[float, list[int]]] = []
        self.errors: dict[int, list[BaseException]] = {}
        self.reported: list[int] = []
        self._clock = clock
        self._is_busy = False

    def fill(self, inputs: MaskInputs, outputs: Sequence[Output]) -> None:
        """The batcher's `Compute`."""
        if self._is_busy:
            pytest.fail("two launches at a time")  # no Exception: nothing takes it for a failure
        self._is_busy = True
        values = values_of(inputs, outputs)
        names = [int(value[0]) for value in values]
        self.launches.append((self._clock.now, names))
        self._clock.sleep_until(self._clock.now + WORK)
        self._is_busy = False
        fill_with(values, outputs)
        for name in names:
            if self.errors.get(name):
                raise self.errors[name].pop()

    def batcher(self, **changes: Any) -> Batcher:
        """One without bounds."""
        arguments: dict[str, Any] = {
            "window_seconds": WINDOW,
            "max_patches": 1 << 20,
            "max_boxes": 1 << 20,
            "launched": self.reported.append,
        }
        return Batcher(self.fill, **arguments | changes)


def values_of(inputs: MaskInputs, outputs: Sequence[Output]) -> list[Any]:
    """Of each request, the x1 of the first box of each image."""
    x1 = np.asarray(inputs.boxes.xyxy)[inputs.boxes.offsets[:-1], 0]
    stops = np.cumsum([len(masks[0]) for masks, _ in outputs])
    assert stops[-1] == inputs.boxes.num_images
    return np.split(x1, stops[:-1])


def fill_with(values: Sequence[Any], outputs: Sequence[Output]) -> None:
    for value, (masks, _) in zip(values, outputs, strict=True):
        for mask in masks:
            mask[...] = value[:, None, None]


def request(
    name: int,
    images: int = 1,
    boxes: int = 1,
    expires: float = math.inf,
    is_wanted: Callable[[], bool] = lambda: True,
    **changes: Any,
) -> BatchRequest:
    """Every box begins at x1 = ``name``."""
    xyxy = np.tile(np.array([name, 0, name, 1], np.float32), (images * boxes, 1))
    arguments: dict[str, Any] = {
        "image_size": (32, 32),
        "feature_map": (4, 4),
        "spec": MaskSpec(patch_size=1),  # equal, but another for each
        "dtype": "float32",
        "return_owner": False,
    }
    batch = BoxBatch(xyxy, np.full(images, boxes))
    inputs = MaskInputs.check(batch, **arguments | changes)
    return unfilled(inputs, expires, is_wanted)


def unfilled(
    inputs: MaskInputs,
    expires: float = math.inf,
    is_wanted: Callable[[], bool] = lambda: True,
) -> BatchRequest:
    masks = [np.full(shape, 77, storage_dtype(inputs.dtype)) for shape in inputs.shapes()]
    owners = [np.full(mask.shape, 77, np.int32) for mask in masks] if inputs.return_owner else []
    return BatchRequest(inputs, masks, owners, expires, is_wanted)


def goes(clock: Clock, at: float) -> Callable[[], bool]:
    """Whether a caller is there who goes at that time."""
    return lambda: clock.now < at


def is_filled(request: BatchRequest) -> bool:
    return bool((request.masks[0] == np.asarray(request.inputs.boxes.xyxy)[0, 0]).all())


def outcomes(
    clock: Clock, batcher: Batcher, *requests: tuple[float, BatchRequest], closes: float = math.inf
) -> list[Task]:
    """Of requests that arrive at these times; those of one time in this order."""
    events: list[tuple[float, Callable[[], None]]]
    events = [(arrival, partial(batcher.fill, request)) for arrival, request in requests]
    if closes < math.inf:
        events.append((closes, batcher.close))
    tasks = {}
    for i in sorted(range(len(events)), key=lambda i: events[i][0]):
        clock.sleep_until(events[i][0])
        tasks[i] = clock.start(events[i][1])
    found = [clock.join(tasks[i]) for i in range(len(events))]
    if closes < math.inf:
        closed = found.pop()
        assert (closed.time, closed.error) == (closes, None)  # waits for nobody
    return found


def kinds(found: list[Task]) -> list[type | None]:
    return [None if one.error is None else type(one.error) for one in found]


def times(found: list[Task]) -> list[float]:
    return [one.time for one in found]


def test_an_idle_engine_is_given_work_at_once(clock: Clock) -> None:
    engine = Engine(clock)
    first, second = request(1), request(2)
    found = outcomes(clock, engine.batcher(), (0, first), (150, second))
    assert engine.launches == [(0, [1]), (150, [2])]
    assert (times(found), kinds(found)) == ([100, 250], [None] * 2)
    assert is_filled(first)
    assert is_filled(second)


def test_arrivals_gather_while_the_engine_is_busy(clock: Clock) -> None:
    engine = Engine(clock)
    requests = [
        (0, request(1)),
        (0, request(2, images=3)),
        (60, request(3, boxes=2)),
        (90, request(4)),
    ]
    found = outcomes(clock, engine.batcher(), *requests)
    assert engine.launches == [(0, [1]), (100, [2, 3, 4])]
    assert engine.reported == [1, 3]
    assert (times(found), kinds(found)) == ([100, 200, 200, 200], [None] * 4)
    assert all(is_filled(filled) for _, filled in requests)


def test_the_window_begins_with_the_first_arrival(clock: Clock) -> None:
    """The engine is free at 100, and the first to wait has waited 5 of 10 by then."""
    engine = Engine(clock)
    arrivals = {1: 0, 2: 95, 3: 97, 4: 104, 5: 106}
    outcomes(clock, engine.batcher(), *((time, request(name)) for name, time in arrivals.items()))
    assert engine.launches == [(0, [1]), (105, [2, 3, 4]), (205, [5])]


@pytest.mark.parametrize("bound", [{"max_patches": 3 * PATCHES}, {"max_boxes": 3}])
def test_a_launch_is_bounded(clock: Clock, bound: dict[str, int]) -> None:
    engine = Engine(clock)
    requests = [(50, request(name)) for name in range(2, 9)]
    outcomes(clock, engine.batcher(**bound), (0, request(1)), *requests)
    assert engine.launches == [(0, [1]), (100, [2, 3, 4]), (200, [5, 6, 7]), (300, [8])]
    assert engine.reported == [1, 3, 3, 1]


def test_what_does_not_fit_is_not_overtaken(clock: Clock) -> None:
    engine = Engine(clock)
    sizes = {2: 2, 3: 2, 4: 1}
    requests = [(50, request(name, images)) for name, images in sizes.items()]
    outcomes(clock, engine.batcher(max_patches=3 * PATCHES), (0, request(1)), *requests)
    assert engine.launches == [(0, [1]), (100, [2]), (200, [3, 4])]


def test_a_request_beyond_the_bounds_goes_alone(clock: Clock) -> None:
    engine = Engine(clock)
    sizes = {2: 1, 3: 1, 4: 9, 5: 1, 6: 1}
    requests = [(50, request(name, images)) for name, images in sizes.items()]
    outcomes(clock, engine.batcher(max_patches=3 * PATCHES), (0, request(1)), *requests)
    assert engine.launches == [(0, [1]), (100, [2, 3]), (200, [4]), (300, [5, 6])]


@pytest.mark.parametrize("bound", [{"max_patches": 2 * PATCHES}, {"max_boxes": 2}])
def test_a_full_launch_does_not_wait_for_the_window(clock: Clock, bound: dict[str, int]) -> None:
    engine = Engine(clock)
    arrivals = {1: 0, 2: 96, 3: 97, 4: 198, 5: 203}
    requests = [(time, request(name)) for name, time in arrivals.items()]
    outcomes(clock, engine.batcher(**bound), *requests)
    assert engine.launches == [(0, [1]), (100, [2, 3]), (203, [4, 5])]


@pytest.mark.parametrize("bound", [{"max_patches": 2 * PATCHES}, {"max_boxes": 2}])
def test_what_is_not_alike_makes_no_launch_full(clock: Clock, bound: dict[str, int]) -> None:
    engine = Engine(clock)
    requests = (0, request(1)), (96, request(2)), (97, request(3, dtype="uint8"))
    outcomes(clock, engine.batcher(**bound), *requests)
    assert engine.launches == [(0, [1]), (106, [2]), (206, [3])]


@pytest.mark.parametrize("bound", [{"max_patches": 2 * PATCHES}, {"max_boxes": 2}])
def test_what_a_full_launch_leaves_waits_for_the_window(
    clock: Clock, bound: dict[str, int]
) -> None:
    engine = Engine(clock)
    requests = (0, request(1)), (50, request(2)), (50, request(3)), (98, request(4))
    outcomes(clock, engine.batcher(window_seconds=300, **bound), *requests)
    assert engine.launches == [(0, [1]), (100, [2, 3]), (398, [4])]


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
def test_only_what_is_alike_goes_together(clock: Clock, other: dict[str, Any]) -> None:
    """Groups in the order of their first arrival."""
    engine = Engine(clock)
    requests = [
        (20, request(2)),
        (21, request(3, **other)),
        (22, request(4)),
        (23, request(5, **other)),
    ]
    outcomes(clock, engine.batcher(), (0, request(1)), *requests)
    assert engine.launches == [(0, [1]), (100, [2, 4]), (200, [3, 5])]


def test_sizes_of_images_may_differ(clock: Clock) -> None:
    engine = Engine(clock)
    requests = [(20, request(2)), (21, request(3, 2, image_size=[(8, 8), (9, 9)]))]
    outcomes(clock, engine.batcher(), (0, request(1)), *requests)
    assert engine.launches == [(0, [1]), (100, [2, 3])]


def test_nobody_starves(clock: Clock) -> None:
    """A pair fills a launch; the odd one is next once it has waited longest, full or not."""
    engine = Engine(clock)
    pairs = [(50 + name, request(name)) for name in (10, 11, 13, 14, 15, 16)]
    odd = (62, request(12, dtype="uint8"))
    outcomes(clock, engine.batcher(max_boxes=2), (0, request(1)), *pairs, odd)
    names = [names for _, names in engine.launches]
    assert names == [[1], [10, 11], [12], [13, 14], [15, 16]]


@pytest.mark.parametrize("arrival", [98, 103])
def test_who_waits_longest_goes_first_where_another_group_is_full(
    clock: Clock, arrival: float
) -> None:
    """At once then: nothing is gained by an idle engine."""
    engine = Engine(clock)
    full = [(arrival, request(3)), (arrival, request(4))]
    odd = (97, request(2, dtype="uint8"))
    outcomes(clock, engine.batcher(max_boxes=2), (0, request(1)), odd, *full)
    begun = max(100, arrival)
    assert engine.launches == [(0, [1]), (begun, [2]), (begun + 100, [3, 4])]


def test_who_has_gone_is_not_computed(clock: Clock) -> None:
    engine = Engine(clock)
    first = request(1, is_wanted=goes(clock, 20))  # computed by then
    gone = [request(name, is_wanted=goes(clock, 60)) for name in (2, 4)]
    requests = (50, gone[0]), (51, request(3)), (52, gone[1])
    found = outcomes(clock, engine.batcher(), (0, first), *requests)
    assert engine.launches == [(0, [1]), (100, [3])]
    assert kinds(found) == [None, Cancelled, None, Cancelled]
    assert times(found) == [100, 100, 200, 100]


def test_who_is_out_of_time_is_not_computed(clock: Clock) -> None:
    """And waits no longer; who computes notices nothing."""
    engine = Engine(clock)
    late = [(50, request(name, expires=time)) for name, time in ((2, 101), (3, 100), (4, 60))]
    found = outcomes(clock, engine.batcher(), (0, request(1, expires=20)), *late)
    assert engine.launches == [(0, [1]), (100, [2])]
    assert kinds(found) == [None, None, Expired, Expired]
    assert times(found) == [100, 200, 100, 60]


def test_no_time_at_all(clock: Clock) -> None:
    """Not even an idle engine computes in no time."""
    engine = Engine(clock)
    batcher = engine.batcher()
    assert kinds(outcomes(clock, batcher, (0, request(1, expires=0)))) == [Expired]
    assert kinds(outcomes(clock, batcher, (0, request(2, expires=1e19)))) == [None]
    assert engine.launches == [(0, [2])]


def test_a_deadline_in_a_launch_that_fails(clock: Clock) -> None:
    """Who has left by then is not computed again, and holds up nobody."""
    engine = Engine(clock)
    engine.errors[2] = [ValueError("bad")]
    requests = (50, request(2)), (50, request(3, expires=150)), (50, request(4))
    found = outcomes(clock, engine.batcher(), (0, request(1)), *requests)
    assert engine.launches == [(0, [1]), (100, [2, 3, 4]), (200, [2]), (300, [4])]
    assert kinds(found) == [None, None, Expired, None]
    assert times(found) == [100, 300, 150, 400]


def test_a_deadline_during_anothers_computation(clock: Clock) -> None:
    """Ends the wait, and disturbs neither that launch nor the next one."""
    engine = Engine(clock)
    requests = (50, request(2)), (50, request(3, expires=150)), (120, request(4))
    found = outcomes(clock, engine.batcher(), (0, request(1)), *requests)
    assert engine.launches == [(0, [1]), (100, [2, 3]), (200, [4])]
    assert kinds(found) == [None, None, Expired, None]
    assert times(found) == [100, 200, 150, 300]


def test_the_next_one_launches_where_the_first_is_out_of_time(clock: Clock) -> None:
    """The first would launch at 350, and the next at 360."""
    engine = Engine(clock)
    waiting = (50, request(2, expires=120)), (60, request(3)), (61, request(4))
    found = outcomes(clock, engine.batcher(window_seconds=300), (0, request(1)), *waiting)
    assert engine.launches == [(0, [1]), (360, [3, 4])]
    assert kinds(found) == [None, Expired, None, None]
    assert found[1].time == 120


@pytest.mark.parametrize("gone", [{"expires": 60}, {"is_wanted": lambda: False}])
def test_a_group_of_which_all_have_gone_is_passed_over(clock: Clock, gone: dict[str, Any]) -> None:
    engine = Engine(clock)
    requests = [(50, request(2, **gone)), (51, request(3, dtype="uint8"))]
    found = outcomes(clock, engine.batcher(), (0, request(1)), *requests)
    assert engine.launches == [(0, [1]), (100, [3])]
    error = Expired if "expires" in gone else Cancelled
    assert kinds(found) == [None, error, None]


def test_who_has_gone_takes_no_room(clock: Clock) -> None:
    engine = Engine(clock)
    requests = [
        (50, request(2)),
        (50, request(3, boxes=9, expires=60)),
        (50, request(4, boxes=9, is_wanted=goes(clock, 60))),
        (50, request(5)),
        (50, request(6)),
    ]
    outcomes(clock, engine.batcher(max_boxes=2), (0, request(1)), *requests)
    assert engine.launches == [(0, [1]), (100, [2, 5]), (200, [6])]


def test_who_is_out_of_time_makes_no_launch_full(clock: Clock) -> None:
    engine = Engine(clock)
    requests = (50, request(2)), (50, request(3, expires=60)), (70, request(4))
    batcher = engine.batcher(window_seconds=300, max_boxes=3)
    outcomes(clock, batcher, (0, request(1)), *requests)
    assert engine.launches == [(0, [1]), (350, [2, 4])]


@pytest.mark.parametrize("failures", [1, 2])
def test_one_failure_is_not_its_neighbours(
    clock: Clock, failures: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Each is computed alone then, while others wait; and who fails again is told."""
    engine = Engine(clock)
    errors: list[BaseException] = [ValueError("bad") for _ in range(failures)]
    engine.errors[3] = list(errors)
    requests = [(50, request(2)), (50, request(3)), (50, request(4)), (150, request(5))]
    with caplog.at_level(logging.WARNING):
        found = outcomes(clock, engine.batcher(), (0, request(1)), *requests)
    names = [names for _, names in engine.launches]
    assert names == [[1], [2, 3, 4], [2], [3], [4], [5]]
    assert engine.reported == [1, 3, 1, 1, 1, 1]
    assert kinds(found) == [None, None, ValueError if failures == 2 else None, None, None]
    assert found[2].error is (errors[0] if failures == 2 else None)
    assert times(found) == [100, 300, 400, 500, 600]
    assert [record.getMessage() for record in caplog.records] == ["a launch failed"]
    assert vars(caplog.records[0])["requests"] == 3
    assert caplog.records[0].exc_info is not None


def test_who_failed_alone_is_not_computed_again(clock: Clock) -> None:
    engine = Engine(clock)
    engine.errors[1] = [ValueError("bad")]
    found = outcomes(clock, engine.batcher(), (0, request(1)), (0, request(2)))
    assert kinds(found) == [ValueError, None]
    assert engine.launches == [(0, [1]), (100, [2])]


def test_who_has_gone_is_not_computed_after_a_failure(clock: Clock) -> None:
    engine = Engine(clock)
    engine.errors[2] = [ValueError("bad")]
    gone = request(3, expires=250), request(4, is_wanted=goes(clock, 250))
    requests = [(50, request(2)), (50, gone[0]), (50, gone[1]), (50, request(5))]
    found = outcomes(clock, engine.batcher(), (0, request(1)), *requests)
    assert engine.launches == [(0, [1]), (100, [2, 3, 4, 5]), (200, [2]), (300, [5])]
    assert kinds(found) == [None, None, Expired, Cancelled, None]
    assert times(found) == [100, 300, 250, 300, 400]


@pytest.mark.parametrize(
    ("errors", "launches"),
    [
        ([EngineBroken("broken")], [[1], [2, 3]]),
        # Raised from the last: broken when computed alone.
        ([EngineBroken("broken"), ValueError("bad")], [[1], [2, 3], [2]]),
    ],
)
def test_a_broken_device_fails_everybody(
    clock: Clock, errors: list[BaseException], launches: list[Any]
) -> None:
    engine = Engine(clock)
    engine.errors[2] = list(errors)
    batcher = engine.batcher()
    waiting = [
        (50, request(2)),
        (50, request(3)),
        (150, request(4)),
        (151, request(5, dtype="uint8")),
    ]
    found = outcomes(clock, batcher, (0, request(1)), *waiting)
    assert [names for _, names in engine.launches] == launches
    assert kinds(found) == [None] + [EngineBroken] * 4
    assert len({one.time for one in found[1:]}) == 1
    batcher.close()
    found += outcomes(clock, batcher, (0, request(6)), (0, request(7)))
    assert found[-1].time == found[1].time
    assert {str(one.error) for one in found[1:]} == {"broken"}
    assert len({id(one.error) for one in found}) == len(found)  # tracebacks of their own
    assert found[1].error is errors[0]  # which knows its cause
    assert len(engine.launches) == len(launches)


def test_closing_answers_all_who_wait(clock: Clock) -> None:
    """At once, and those that come later; who computes gets what it computes."""
    engine = Engine(clock)
    waiting = (50, request(2)), (51, request(3, dtype="uint8")), (70, request(4))
    found = outcomes(clock, engine.batcher(), (0, request(1)), *waiting, closes=60)
    assert engine.launches == [(0, [1])]
    assert kinds(found) == [None] + [Stopping] * 3
    assert times(found) == [100, 60, 60, 70]


@pytest.mark.parametrize("is_failing", [False, True])
def test_closing_answers_those_that_are_computed(clock: Clock, is_failing: bool) -> None:
    """By others; and nothing is repeated."""
    engine = Engine(clock)
    engine.errors[2] = [ValueError("bad")] if is_failing else []
    waiting = (50, request(2)), (50, request(3)), (120, request(4))
    found = outcomes(clock, engine.batcher(), (0, request(1)), *waiting, closes=160)
    assert engine.launches == [(0, [1]), (100, [2, 3])]
    assert kinds(found) == [None, Stopping if is_failing else None, Stopping, Stopping]
    assert times(found) == [100, 200, 160, 160]


def test_closing_ends_the_window(clock: Clock) -> None:
    engine = Engine(clock)
    batcher = engine.batcher(window_seconds=300)
    found = outcomes(clock, batcher, (0, request(1)), (50, request(2)), closes=120)
    assert (kinds(found), times(found)) == ([None, Stopping], [100, 120])
    batcher.close()
    assert kinds(outcomes(clock, batcher, (0, request(3)))) == [Stopping]
    assert engine.launches == [(0, [1])]


@pytest.mark.parametrize("error", [SystemExit(1), KeyboardInterrupt(), GeneratorExit()])
def test_an_interrupted_launch_leaves_nobody_waiting(clock: Clock, error: BaseException) -> None:
    engine = Engine(clock)
    engine.errors[2] = [error]
    waiting = (50, request(2)), (50, request(3)), (51, request(4, dtype="uint8"))
    found = outcomes(clock, engine.batcher(), (0, request(1)), *waiting)
    assert engine.launches == [(0, [1]), (100, [2, 3]), (200, [3]), (300, [4])]
    assert kinds(found) == [None, type(error), None, None]
    assert times(found) == [100, 200, 300, 400]


def test_an_interrupted_wait_leaves_nobody_waiting(clock: Clock) -> None:
    """Neither the first's nor another's, here by what asks whether their callers are there."""
    engine = Engine(clock)

    def interrupted() -> bool:
        if clock.now >= 100:
            raise SystemExit
        return True

    def first() -> BatchRequest:
        return request(2, is_wanted=interrupted)

    found = outcomes(clock, engine.batcher(), (0, request(1)), (50, first()), (60, request(3)))
    assert kinds(found) == [None, SystemExit, None]
    engine.launches.clear()
    start = clock.now
    requests = (start, request(1)), (start + 50, request(3)), (start + 50, request(4))
    found = outcomes(clock, engine.batcher(), *requests)
    assert engine.launches == [(start, [1]), (start + 100, [3, 4])]


def test_a_failing_report_leaves_nobody_waiting(clock: Clock) -> None:
    engine = Engine(clock)
    reports = iter([None, ZeroDivisionError(), None, ZeroDivisionError(), None])

    def launched(size: int) -> None:
        if (error := next(reports)) is not None:
            raise error

    batcher = engine.batcher(launched=launched)
    waiting = (50, request(2)), (50, request(3)), (51, request(4, dtype="uint8"))
    found = outcomes(clock, batcher, (0, request(1)), *waiting)
    assert engine.launches == [(0, [1]), (100, [2]), (200, [4])]
    assert kinds(found) == [None, None, ZeroDivisionError, None]


class HeldEngine:
    """Computes in real time, once it is let go.

    Attributes:
        begun: set where a launch waits to be let go.
        release: lets go of launches.
    """

    def __init__(self) -> None:
        self.begun, self.release = threading.Event(), threading.Event()
        self.sizes: list[int] = []

    def fill(self, inputs: MaskInputs, outputs: Sequence[Output]) -> None:
        """The batcher's `Compute`."""
        self.begun.set()
        assert self.release.wait(LIMIT)
        fill_with(values_of(inputs, outputs), outputs)

    def batcher(self, window_seconds: float = 0) -> Batcher:
        bounds = {"max_patches": 1 << 20, "max_boxes": 1 << 20}
        return Batcher(
            self.fill, window_seconds=window_seconds, launched=self.sizes.append, **bounds
        )


class Seen:
    """An `is_wanted` that tells when it was first called: its request waits, or soon does."""

    def __init__(self) -> None:
        self.event = threading.Event()

    def __call__(self) -> bool:
        self.event.set()
        return True


def test_real_threads_wait_for_the_engine() -> None:
    """And for a window that passes; deadlines pass meanwhile, whatever the engine does."""
    engine = HeldEngine()
    batcher = engine.batcher(window_seconds=0.01)
    seen = Seen()
    requests = [request(name, is_wanted=seen) for name in range(4)]
    with ThreadPoolExecutor(8) as pool:
        filled = [pool.submit(batcher.fill, requests[0])]
        assert engine.begun.wait(LIMIT)
        late = pool.submit(batcher.fill, request(9, expires=monotonic() + 0.01))
        assert isinstance(late.exception(LIMIT), Expired)
        for one in requests[1:]:
            seen.event.clear()
            filled.append(pool.submit(batcher.fill, one))
            assert seen.event.wait(LIMIT)
        assert not any(future.done() for future in filled)
        engine.release.set()
        for future in filled:
            assert future.result(LIMIT) is None
    assert all(map(is_filled, requests))
    assert engine.sizes == [1, 3]


def test_closing_frees_real_threads() -> None:
    engine = HeldEngine()
    batcher = engine.batcher(window_seconds=3600)
    seen = Seen()
    with ThreadPoolExecutor(8) as pool:
        computing = pool.submit(batcher.fill, request(1))
        assert engine.begun.wait(LIMIT)
        waiting = pool.submit(batcher.fill, request(2, is_wanted=seen))
        assert seen.event.wait(LIMIT)
        pool.submit(batcher.close).result(LIMIT)
        assert isinstance(waiting.exception(LIMIT), Stopping)
        assert not computing.done()
        engine.release.set()
        assert computing.result(LIMIT) is None


def test_many_threads_at_once() -> None:
    """No launch beside another, an end for each request, and to each what is its own."""
    callers, calls = 16, 60
    busy = threading.Lock()
    sizes: list[int] = []

    def compute(inputs: MaskInputs, outputs: Sequence[Output]) -> None:
        if not busy.acquire(blocking=False):
            pytest.fail("two launches at a time")
        try:
            values = values_of(inputs, outputs)
            fill_with(values, outputs)
            for name in (int(value[0]) for value in values):
                if name % 13 == 0:
                    raise ValueError(name)
                if name % 101 == 0:
                    raise SystemExit(name)
        finally:
            busy.release()

    batcher = Batcher(
        compute, window_seconds=0.001, max_patches=5 * PATCHES, max_boxes=5, launched=sizes.append
    )

    def call(caller: int) -> list[BaseException | None]:
        return [call_once(caller * calls + i + 1) for i in range(calls)]

    def call_once(name: int) -> BaseException | None:
        expires = monotonic() + (0.0005 if name % 7 == 0 else 1e9)
        is_there = itertools.chain([True], itertools.repeat(name % 11 != 0))
        dtype = "uint8" if name % 3 == 0 else "float32"
        one = request(name % 251, 1, 1, expires, lambda: next(is_there), dtype=dtype)
        try:
            batcher.fill(one)
        except BaseException as error:
            return error
        assert is_filled(one)
        return None

    threads = ThreadPoolExecutor(callers)
    found = [error for errors in threads.map(call, range(callers), timeout=90) for error in errors]
    threads.shutdown()
    assert len(found) == callers * calls
    for name, error in enumerate(found, 1):
        value = name % 251
        if isinstance(error, ValueError):
            assert value % 13 == 0
            assert error.args == (value,)
        else:
            assert error is None or isinstance(error, SystemExit | Expired | Cancelled)
            assert not isinstance(error, Expired) or name % 7 == 0
            assert not isinstance(error, Cancelled) or name % 11 == 0
    assert len(sizes) > 1
    assert max(sizes) <= 5


def test_closing_amid_many_threads() -> None:
    """Each call ends: with its answer before, and without one after."""
    begun = threading.Barrier(9)
    batcher = Batcher(
        lambda inputs, outputs: fill_with(values_of(inputs, outputs), outputs),
        window_seconds=0.001,
        max_patches=5 * PATCHES,
        max_boxes=5,
        launched=lambda size: None,
    )

    def call_until_closed(caller: int) -> int:
        begun.wait(LIMIT)
        for calls in itertools.count():
            one = request(caller)
            try:
                batcher.fill(one)
            except Stopping:
                return calls
            assert is_filled(one)
        raise AssertionError

    with ThreadPoolExecutor(8) as pool:
        calls = [pool.submit(call_until_closed, caller) for caller in range(8)]
        begun.wait(LIMIT)
        batcher.close()
        assert all(call.result(LIMIT) >= 0 for call in calls)
    for caller in range(2):
        with pytest.raises(Stopping):
            batcher.fill(request(caller))


@pytest.mark.parametrize("error", [ValueError("bad"), None])
def test_an_error_does_not_keep_arrays(error: Exception | None) -> None:
    """Until the garbage collector runs, which many large ones would not live to see."""

    def compute(inputs: MaskInputs, outputs: Sequence[Output]) -> None:
        raise AssertionError if error is None else error

    def fill() -> weakref.ref[Any]:
        one = request(1, expires=math.inf if error is not None else 0)
        with pytest.raises(Expired if error is None else ValueError):
            batcher.fill(one)
        return weakref.ref(one.masks[0])

    batcher = Batcher(
        compute, window_seconds=0, max_patches=1, max_boxes=1, launched=lambda size: None
    )
    gc.collect()
    gc.disable()
    try:
        kept = fill()
        if error is not None:
            error.__traceback__ = None
        assert kept() is None
    finally:
        gc.enable()


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
    requests = [
        unfilled(MaskInputs.check(boxes, sizes, maps, SPEC, dtype, return_owner))
        for boxes, sizes in arguments
    ]
    inputs = merge([request.inputs for request in requests])
    compute_really(inputs, [(request.masks, request.owners) for request in requests])
    for (boxes, sizes), filled in zip(arguments, requests, strict=True):
        expected = generate_mask(boxes, sizes, maps, SPEC, dtype=dtype, return_owner=return_owner)
        masks, owners = expected if return_owner else (expected, [])
        for ours, theirs in zip((*filled.masks, *filled.owners), (*masks, *owners), strict=True):
            assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)
            assert ours.tobytes() == theirs.tobytes()
    assert requests[0].masks[0].max() > 0


def test_one_size_for_all_stays_one() -> None:
    """Which saves its way to the device."""
    assert merge([request(1).inputs, request(2, 3).inputs]).sizes.tolist() == [[32, 32]]
    differing = [request(1).inputs, request(2, 2, image_size=(16, 32)).inputs]
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
    with simulated() as clock:
        engine = Engine(clock)
        bounds = {"max_patches": max_images * PATCHES, "max_boxes": max_boxes}
        batcher = engine.batcher(window_seconds=window, **bounds)
        requests = []
        for name, entry in enumerate(schedule):
            engine.errors[name] = [ValueError(name) for _ in range(entry.failures)]
            expires = math.inf if entry.patience is None else entry.time + entry.patience
            leaves = math.inf if entry.leaves_after is None else entry.time + entry.leaves_after
            requests.append(
                request(
                    name,
                    entry.images,
                    entry.boxes,
                    expires,
                    goes(clock, leaves),
                    dtype=entry.dtype,
                )
            )
        arriving = ((entry.time, one) for entry, one in zip(schedule, requests, strict=True))
        found = outcomes(clock, batcher, *arriving)
    launched = {name: start for start, names in engine.launches for name in names}
    for name, (entry, one, end) in enumerate(zip(schedule, requests, found, strict=True)):
        error = end.error
        if error is None:
            assert is_filled(one)
            assert end.time == launched[name] + WORK
        elif isinstance(error, Expired):
            assert entry.patience is not None
            assert end.time >= entry.time + entry.patience
        elif isinstance(error, Cancelled):
            assert entry.leaves_after is not None
            assert end.time >= entry.time + entry.leaves_after
        else:
            assert isinstance(error, ValueError)
            assert entry.failures
            assert error.args == (name,)
    for start, names in engine.launches:
        asked = [schedule[name] for name in names]
        assert len({entry.dtype for entry in asked}) == 1
        assert all(start < e.time + e.patience for e in asked if e.patience is not None)
        assert all(start < e.time + e.leaves_after for e in asked if e.leaves_after is not None)
        if len(names) > 1:
            assert sum(entry.images for entry in asked) <= max_images
            assert sum(entry.images * entry.boxes for entry in asked) <= max_boxes
    # The one that has waited longest is in the next launch; what is alike keeps its order.
    arrived = {name: (entry.time, name) for name, entry in enumerate(schedule)}
    waiting = {name for _, names in engine.launches for name in names}
    for _, names in engine.launches:
        if waiting.issuperset(names):  # and is not repeated
            assert names == sorted(names, key=arrived.__getitem__)
            assert names[0] == min(waiting, key=arrived.__getitem__)
            waiting.difference_update(names)
