"""Which requests a `Batcher` computes together and when, in simulated time."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cass_core import MaskSpec
from cass_core.inputs import MaskInputs
from cass_server.exceptions import Cancelled, EngineBroken, Expired, Stopping
from cass_server.scheduling.batcher import Batcher, BatchRequest, Output
from tests.server.support.batches import (
    PATCHES,
    fill_with,
    is_filled,
    mask_inputs,
    unfilled,
    values_of,
)
from tests.server.support.simulated_time import Clock, Task, simulated

WINDOW = 10
WORK = 100
UINT8 = {"dtype": "uint8"}


@pytest.fixture(name="clock")
def _clock() -> Iterator[Clock]:
    with simulated() as clock:
        yield clock


class Engine:
    """Writes a box's x1 to all patches of its image, `WORK` after it is called.

    Attributes:
        launches: when each began, and the x1 of the first box of each request in it.
        failures: what to raise, once each, where a request of that x1 is in a launch.
        reported: what the batcher reported of its launches.
    """

    def __init__(self, clock: Clock) -> None:
        self.launches: list[tuple[float, list[int]]] = []
        self.failures: dict[int, list[BaseException]] = {}
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
            if self.failures.get(name):
                raise self.failures[name].pop()

    def batcher(self, **changes: Any) -> Batcher:
        """One without bounds."""
        arguments: dict[str, Any] = {
            "window_seconds": WINDOW,
            "max_patches": 1 << 20,
            "max_boxes": 1 << 20,
            "launched": self.reported.append,
        }
        return Batcher(self.fill, **arguments | changes)


@dataclass(frozen=True)
class Arrival:
    """A request that comes at a time, and how long its caller waits for it.

    Attributes:
        name: the x1 of its boxes.
        boxes: of each image.
        other: arguments of its inputs that are not those of most requests.
    """

    at: float
    name: int
    images: int = 1
    boxes: int = 1
    expires: float | None = None
    leaves: float = math.inf
    other: dict[str, Any] = field(default_factory=dict)

    def request(self, clock: Clock) -> BatchRequest:
        """Unfilled."""
        inputs = mask_inputs(self.name, self.images, self.boxes, **self.other)
        return unfilled(inputs, self.expires, lambda: clock.now < self.leaves)


def run(
    clock: Clock,
    batcher: Batcher,
    arrivals: Sequence[tuple[float, BatchRequest]],
    closes: float = math.inf,
) -> list[Task]:
    """What becomes of requests that come at these times; those of one time in this order."""
    events: list[tuple[float, Callable[[], None]]]
    events = [(at, partial(batcher.fill, request)) for at, request in arrivals]
    if closes < math.inf:
        events.append((closes, batcher.close))
    tasks = {}
    for i in sorted(range(len(events)), key=lambda i: events[i][0]):
        clock.sleep_until(events[i][0])
        tasks[i] = clock.start(events[i][1])
    ended = [tasks[i].join() for i in range(len(events))]
    if closes < math.inf:
        closed = ended.pop()
        assert (closed.time, closed.error) == (closes, None)  # waits for nobody
    return ended


class Case(NamedTuple):
    """Requests, and what is expected of them.

    Attributes:
        arrivals: of requests to a batcher.
        launches: when each begins, and the names of its requests. Each request ends well when its
            last launch does, unless it is in ``errors``.
        errors: when and with which error requests end, by their names.
        failures: how often launches with these requests fail, by name.
        most: patches in a launch, in images, and boxes: each bound alone has the same effect.
        window: of the batcher.
        closes: when the batcher is closed.
    """

    arrivals: list[Arrival]
    launches: list[tuple[float, list[int]]]
    errors: dict[int, tuple[float, type[BaseException]]] = {}  # noqa: RUF012
    failures: dict[int, int] = {}  # noqa: RUF012
    most: int = 0
    window: float = WINDOW
    closes: float = math.inf


def check(clock: Clock, engine: Engine, case: Case, **options: Any) -> list[Task]:
    for name, times in case.failures.items():
        engine.failures[name] = [ValueError(f"{name} fails") for _ in range(times)]
    batcher = engine.batcher(window_seconds=case.window, **options)
    requests = [(arrival.at, arrival.request(clock)) for arrival in case.arrivals]
    ended = run(clock, batcher, requests, case.closes)
    assert engine.launches == case.launches
    assert engine.reported == [len(names) for _, names in case.launches]
    launched = {name: start for start, names in case.launches for name in names}
    for arrival, (_, request), task in zip(case.arrivals, requests, ended, strict=True):
        if arrival.name in case.errors:
            assert (task.time, type(task.error)) == case.errors[arrival.name]
        else:
            assert (task.time, task.error) == (launched[arrival.name] + WORK, None)
            assert is_filled(request)
    return ended


A = Arrival
FIRST = A(0, 1)
"""Has an idle engine compute until 100."""
CASES = {
    "an idle engine is given work at once": Case([FIRST, A(150, 2)], [(0, [1]), (150, [2])]),
    "arrivals gather while the engine is busy": Case(
        [FIRST, A(0, 2, images=3), A(60, 3, boxes=2), A(90, 4)], [(0, [1]), (100, [2, 3, 4])]
    ),
    # The engine is free at 100, and the first to wait has waited 5 of 10 by then.
    "the window begins with the first arrival": Case(
        [FIRST, A(95, 2), A(97, 3), A(104, 4), A(106, 5)],
        [(0, [1]), (105, [2, 3, 4]), (205, [5])],
    ),
    "a launch is bounded": Case(
        [FIRST, *(A(50, name) for name in range(2, 9))],
        [(0, [1]), (100, [2, 3, 4]), (200, [5, 6, 7]), (300, [8])],
        most=3,
    ),
    "what does not fit is not overtaken": Case(
        [FIRST, A(50, 2, images=2), A(50, 3, images=2), A(50, 4)],
        [(0, [1]), (100, [2]), (200, [3, 4])],
        most=3,
    ),
    "a request beyond the bounds goes alone": Case(
        [FIRST, A(50, 2), A(50, 3), A(50, 4, images=9), A(50, 5), A(50, 6)],
        [(0, [1]), (100, [2, 3]), (200, [4]), (300, [5, 6])],
        most=3,
    ),
    "a full launch does not wait for the window": Case(
        [FIRST, A(96, 2), A(97, 3), A(198, 4), A(203, 5)],
        [(0, [1]), (100, [2, 3]), (203, [4, 5])],
        most=2,
    ),
    "what is not alike makes no launch full": Case(
        [FIRST, A(96, 2), A(97, 3, other=UINT8)], [(0, [1]), (106, [2]), (206, [3])], most=2
    ),
    "what a full launch leaves waits for the window": Case(
        [FIRST, A(50, 2), A(50, 3), A(98, 4)],
        [(0, [1]), (100, [2, 3]), (398, [4])],
        most=2,
        window=300,
    ),
    "sizes of images may differ": Case(
        [FIRST, A(20, 2), A(21, 3, images=2, other={"image_size": [(8, 8), (9, 9)]})],
        [(0, [1]), (100, [2, 3])],
    ),
    # A pair fills a launch; the odd one is next once it has waited longest, full or not.
    "nobody starves": Case(
        [FIRST, *(A(50 + n, n) for n in (10, 11, 13, 14, 15, 16)), A(62, 12, other=UINT8)],
        [(0, [1]), (100, [10, 11]), (200, [12]), (300, [13, 14]), (400, [15, 16])],
        most=2,
    ),
    # At once: an idle engine gains nothing.
    "the longest wait is over where another group is full": Case(
        [FIRST, A(97, 2, other=UINT8), A(98, 3), A(98, 4)],
        [(0, [1]), (100, [2]), (200, [3, 4])],
        most=2,
    ),
    "the longest wait is over when another group gets full": Case(
        [FIRST, A(97, 2, other=UINT8), A(103, 3), A(103, 4)],
        [(0, [1]), (103, [2]), (203, [3, 4])],
        most=2,
    ),
    "callers that have gone are not computed": Case(
        [A(0, 1, leaves=20), A(50, 2, leaves=60), A(51, 3), A(52, 4, leaves=60)],
        [(0, [1]), (100, [3])],
        {2: (100, Cancelled), 4: (100, Cancelled)},
    ),
    # They wait no longer, and who computes notices nothing.
    "what is out of time is not computed": Case(
        [A(0, 1, expires=20), A(50, 2, expires=101), A(50, 3, expires=100), A(50, 4, expires=60)],
        [(0, [1]), (100, [2])],
        {3: (100, Expired), 4: (60, Expired)},
    ),
    "an idle engine computes nothing in no time": Case(
        [A(0, 1, expires=0), A(0, 2, expires=1e19)], [(0, [2])], {1: (0, Expired)}
    ),
    # Who has left by then is not computed again, and holds up nobody.
    "a deadline in a launch that fails": Case(
        [FIRST, A(50, 2), A(50, 3, expires=150), A(50, 4)],
        [(0, [1]), (100, [2, 3, 4]), (200, [2]), (300, [4])],
        {3: (150, Expired)},
        failures={2: 1},
    ),
    "a deadline during another's computation": Case(
        [FIRST, A(50, 2), A(50, 3, expires=150), A(120, 4)],
        [(0, [1]), (100, [2, 3]), (200, [4])],
        {3: (150, Expired)},
    ),
    # The first would launch at 350.
    "the next one launches where the first is out of time": Case(
        [FIRST, A(50, 2, expires=120), A(60, 3), A(61, 4)],
        [(0, [1]), (360, [3, 4])],
        {2: (120, Expired)},
        window=300,
    ),
    "a group of which all are out of time is passed over": Case(
        [FIRST, A(50, 2, expires=60), A(51, 3, other=UINT8)],
        [(0, [1]), (100, [3])],
        {2: (60, Expired)},
    ),
    "a group of which all have gone is passed over": Case(
        [FIRST, A(50, 2, leaves=60), A(51, 3, other=UINT8)],
        [(0, [1]), (100, [3])],
        {2: (100, Cancelled)},
    ),
    "callers that have gone take no room": Case(
        [
            FIRST,
            A(50, 2),
            A(50, 3, 1, 9, expires=60),
            A(50, 4, 1, 9, leaves=60),
            A(50, 5),
            A(50, 6),
        ],
        [(0, [1]), (100, [2, 5]), (200, [6])],
        {3: (60, Expired), 4: (100, Cancelled)},
        most=2,
    ),
    "what is out of time makes no launch full": Case(
        [FIRST, A(50, 2), A(50, 3, expires=60), A(70, 4)],
        [(0, [1]), (350, [2, 4])],
        {3: (60, Expired)},
        most=3,
        window=300,
    ),
    "what failed alone is not computed again": Case(
        [FIRST, A(0, 2)], [(0, [1]), (100, [2])], {1: (100, ValueError)}, failures={1: 1}
    ),
    "callers that have gone are not computed after a failure": Case(
        [FIRST, A(50, 2), A(50, 3, expires=250), A(50, 4, leaves=250), A(50, 5)],
        [(0, [1]), (100, [2, 3, 4, 5]), (200, [2]), (300, [5])],
        {3: (250, Expired), 4: (300, Cancelled)},
        failures={2: 1},
    ),
    # At once, and those that come later; who computes gets what it computes.
    "closing ends all waits": Case(
        [FIRST, A(50, 2), A(51, 3, other=UINT8), A(70, 4)],
        [(0, [1])],
        {2: (60, Stopping), 3: (60, Stopping), 4: (70, Stopping)},
        closes=60,
    ),
    "closing ends waits for what others compute": Case(
        [FIRST, A(50, 2), A(50, 3), A(120, 4)],
        [(0, [1]), (100, [2, 3])],
        {3: (160, Stopping), 4: (160, Stopping)},
        closes=160,
    ),
    "after closing nothing is repeated": Case(
        [FIRST, A(50, 2), A(50, 3), A(120, 4)],
        [(0, [1]), (100, [2, 3])],
        {2: (200, Stopping), 3: (160, Stopping), 4: (160, Stopping)},
        failures={2: 1},
        closes=160,
    ),
    "closing ends the window": Case(
        [FIRST, A(50, 2)], [(0, [1])], {2: (120, Stopping)}, window=300, closes=120
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_batches(name: str) -> None:
    case = CASES[name]
    bounds = {"max_patches": case.most * PATCHES, "max_boxes": case.most}
    for bound in bounds if case.most else [""]:
        with simulated() as clock:
            check(clock, Engine(clock), case, **({bound: bounds[bound]} if bound else {}))


@pytest.mark.parametrize(
    "other",
    [
        {"spec": MaskSpec(patch_size=1, expansion_ratio=0.5)},
        {"feature_map": (4, 5)},
        {"feature_map": [(4, 4), (2, 2)]},
        {"dtype": "uint8"},
        {"return_owner": True},
    ],
)
def test_only_what_is_alike_goes_together(clock: Clock, other: dict[str, Any]) -> None:
    """Groups in the order of their first arrival."""
    arrivals = [FIRST, A(20, 2), A(21, 3, other=other), A(22, 4), A(23, 5, other=other)]
    check(clock, Engine(clock), Case(arrivals, [(0, [1]), (100, [2, 4]), (200, [3, 5])]))


@pytest.mark.parametrize("failures", [1, 2])
def test_one_failure_is_not_its_neighbours(
    clock: Clock, failures: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Each is computed alone then, while others wait; and who fails again gets the error."""
    case = Case(
        [FIRST, A(50, 2), A(50, 3), A(50, 4), A(150, 5)],
        [(0, [1]), (100, [2, 3, 4]), (200, [2]), (300, [3]), (400, [4]), (500, [5])],
        {3: (400, ValueError)} if failures == 2 else {},
        failures={3: failures},
    )
    with caplog.at_level(logging.WARNING):
        check(clock, Engine(clock), case)
    (record,) = caplog.records
    assert record.getMessage() == "a launch failed"
    assert vars(record)["requests"] == 3
    assert record.exc_info is not None


@pytest.mark.parametrize(
    ("errors", "launches"),
    [
        ([EngineBroken("broken")], [(0, [1]), (100, [2, 3])]),
        # Raised from the last: broken when computed alone.
        ([EngineBroken("broken"), ValueError("bad")], [(0, [1]), (100, [2, 3]), (200, [2])]),
    ],
)
def test_a_broken_device_fails_everybody(
    clock: Clock, errors: list[BaseException], launches: list[Any]
) -> None:
    engine, end = Engine(clock), launches[-1][0] + WORK
    engine.failures[2] = list(errors)
    arrivals = [FIRST, A(50, 2), A(50, 3), A(150, 4), A(151, 5, other=UINT8), A(end + 50, 6)]
    broken = dict.fromkeys((2, 3, 4, 5), (end, EngineBroken)) | {6: (end + 50, EngineBroken)}
    # Closing it changes nothing then.
    ended = check(clock, engine, Case(arrivals, launches, broken, closes=end + 10))
    assert {str(task.error) for task in ended[1:]} == {"broken"}
    assert len({id(task.error) for task in ended}) == len(ended)  # tracebacks of their own
    assert ended[1].error is errors[0]  # which knows its cause


@pytest.mark.parametrize("error", [SystemExit(1), KeyboardInterrupt(), GeneratorExit()])
def test_an_interrupted_launch_leaves_nobody_waiting(clock: Clock, error: BaseException) -> None:
    engine = Engine(clock)
    engine.failures[2] = [error]
    arrivals = [FIRST, A(50, 2), A(50, 3), A(51, 4, other=UINT8)]
    launches = [(0.0, [1]), (100.0, [2, 3]), (200.0, [3]), (300.0, [4])]
    check(clock, engine, Case(arrivals, launches, {2: (200, type(error))}))


def test_an_interrupted_wait_leaves_nobody_waiting(clock: Clock) -> None:
    """Neither the first's nor another's, here by what asks whether their callers are there."""

    class Interrupting(Arrival):
        def request(self, clock: Clock) -> BatchRequest:
            def is_wanted() -> bool:
                if clock.now >= 100:
                    raise SystemExit
                return True

            return unfilled(mask_inputs(self.name), None, is_wanted)

    ended = {2: (100.0, SystemExit)}
    arrivals = [FIRST, Interrupting(50, 2), A(60, 3)]
    case = Case([*arrivals, A(350, 4), A(360, 5)], [(0, [1]), (100, [3]), (350, [4]), (450, [5])])
    check(clock, Engine(clock), case._replace(errors=ended))


def test_a_failing_report_leaves_nobody_waiting(clock: Clock) -> None:
    engine = Engine(clock)
    fails = iter([False, True, False, True, False])

    def launched(size: int) -> None:
        if next(fails):
            raise ZeroDivisionError
        engine.reported.append(size)

    arrivals = [FIRST, A(50, 2), A(50, 3), A(51, 4, other=UINT8)]
    launches = [(0.0, [1]), (100.0, [2]), (200.0, [4])]
    check(clock, engine, Case(arrivals, launches, {3: (200, ZeroDivisionError)}), launched=launched)


@st.composite
def schedules(draw: st.DrawFn) -> list[tuple[Arrival, int]]:
    """Requests, and how often each fails."""
    patience = st.just(math.inf) | st.integers(0, 3 * WORK)
    schedule = []
    for name in range(draw(st.integers(0, 25))):
        at = draw(st.integers(0, 5 * WORK))
        images, boxes = draw(st.integers(1, 4)), draw(st.integers(1, 3))
        expires, leaves = at + draw(patience), at + draw(patience)
        other = {"dtype": draw(st.sampled_from(["float32", "float16"]))}
        arrival = A(at, name, images, boxes, expires, leaves, other)
        schedule.append((arrival, draw(st.sampled_from([0, 0, 0, 1, 9]))))
    return schedule


@given(schedules(), st.integers(1, 12), st.integers(1, 12), st.sampled_from([0, WINDOW, 3 * WORK]))
def test_everybody_gets_its_own_answer(
    schedule: list[tuple[Arrival, int]], max_images: int, max_boxes: int, window: int
) -> None:
    """Whatever arrives when: an answer, or an error that this request has earned."""
    arrivals = [arrival for arrival, _ in schedule]
    with simulated() as clock:
        engine = Engine(clock)
        for arrival, failures in schedule:
            engine.failures[arrival.name] = [ValueError(arrival.name) for _ in range(failures)]
        bounds = {"max_patches": max_images * PATCHES, "max_boxes": max_boxes}
        requests = [arrival.request(clock) for arrival in arrivals]
        arriving = [(a.at, request) for a, request in zip(arrivals, requests, strict=True)]
        ended = run(clock, engine.batcher(window_seconds=window, **bounds), arriving)
    launched = {name: start for start, names in engine.launches for name in names}
    for (arrival, failures), request, end in zip(schedule, requests, ended, strict=True):
        if end.error is None:
            assert is_filled(request)
            assert end.time == launched[arrival.name] + WORK
        elif isinstance(end.error, Expired):
            assert end.time >= (arrival.expires or 0)
        elif isinstance(end.error, Cancelled):
            assert end.time >= arrival.leaves
        else:
            assert isinstance(end.error, ValueError)
            assert failures
            assert end.error.args == (arrival.name,)
    for start, names in engine.launches:
        asked = [arrivals[name] for name in names]
        assert len({arrival.other["dtype"] for arrival in asked}) == 1
        assert all(start < min(arrival.expires, arrival.leaves) for arrival in asked)
        if len(names) > 1:
            assert sum(arrival.images for arrival in asked) <= max_images
            assert sum(arrival.images * arrival.boxes for arrival in asked) <= max_boxes
    # The one that has waited longest is in the next launch; what is alike keeps its order.
    arrived = {arrival.name: (arrival.at, arrival.name) for arrival in arrivals}
    waiting = {name for _, names in engine.launches for name in names}
    for _, names in engine.launches:
        if waiting.issuperset(names):  # and is not repeated
            assert names == sorted(names, key=arrived.__getitem__)
            assert names[0] == min(waiting, key=arrived.__getitem__)
            waiting.difference_update(names)
