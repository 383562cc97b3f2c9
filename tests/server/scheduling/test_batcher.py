"""Which requests a `Batcher` computes together and when, in simulated time."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
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
from tests.server.support.batches import PATCHES, batch_request, fill, is_filled, values_of
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
        names = [int(value[0]) for value in values_of(inputs, outputs)]
        self.launches.append((self._clock.now, names))
        self._clock.sleep_until(self._clock.now + WORK)
        self._is_busy = False
        fill(inputs, outputs)
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
    """A request that comes at a time.

    Attributes:
        boxes: of each image.
        expires: its deadline.
        leaves: until when its caller is there.
        interrupts: from when on to ask whether its caller is there raises.
        other: arguments of its inputs that are not those of most requests.
    """

    at: float
    images: int = 1
    boxes: int = 1
    expires: float = math.inf
    leaves: float = math.inf
    interrupts: float = math.inf
    other: dict[str, Any] = field(default_factory=dict)

    def request(self, clock: Clock, name: int) -> BatchRequest:
        """Unfilled; its boxes begin at x1 = ``name``."""

        def is_wanted() -> bool:
            if clock.now >= self.interrupts:
                raise SystemExit
            return clock.now < self.leaves

        sizes = {"images": self.images, "boxes": self.boxes}
        return batch_request(name, self.expires, is_wanted, **sizes, **self.other)


def run(
    clock: Clock,
    batcher: Batcher,
    arrivals: Sequence[Arrival],
    requests: Sequence[BatchRequest],
    closes: float = math.inf,
) -> list[Task]:
    """What becomes of the requests; those that come at one time come in this order."""
    fills = [partial(batcher.fill, request) for request in requests]
    events = [*zip([arrival.at for arrival in arrivals], fills, strict=True)]
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
        arrivals: of requests 2, 3, 4 and so on; `first` comes at 0.
        launches: when each begins, and the names of its requests; without that of 1 alone at 0.
            Each request ends well when its last launch does, unless it is in ``errors``.
        errors: when and with which error requests end, by their names.
        most: patches in a launch, in images, and boxes: each bound alone has the same effect.
        window: of the batcher.
        closes: when the batcher is closed.
        failures: what launches with these requests raise, once each, from the last.
        first: request 1, which an idle engine computes until 100.
    """

    arrivals: list[Arrival]
    launches: list[tuple[float, list[int]]]
    errors: dict[int, tuple[float, type[BaseException]]] = {}  # noqa: RUF012
    most: int = 0
    window: float = WINDOW
    closes: float = math.inf
    failures: dict[int, list[BaseException]] = {}  # noqa: RUF012
    first: Arrival = Arrival(0)


def check(clock: Clock, case: Case, engine: Engine | None = None, **options: Any) -> list[Task]:
    engine = engine or Engine(clock)
    engine.failures = {name: list(errors) for name, errors in case.failures.items()}
    batcher = engine.batcher(window_seconds=case.window, **options)
    arrivals = [case.first, *case.arrivals]
    requests = [arrival.request(clock, name) for name, arrival in enumerate(arrivals, 1)]
    ended = run(clock, batcher, arrivals, requests, case.closes)
    launches = case.launches if 1 in case.errors else [(0, [1]), *case.launches]
    assert engine.launches == launches
    assert engine.reported == [len(names) for _, names in launches]
    launched = {name: start for start, names in launches for name in names}
    for name, (request, task) in enumerate(zip(requests, ended, strict=True), 1):
        if name in case.errors:
            assert (task.time, type(task.error)) == case.errors[name]
        else:
            assert (task.time, task.error) == (launched[name] + WORK, None)
            assert is_filled(request)
    return ended


BAD = ValueError("bad")
A = Arrival
CASES = {
    "an idle engine is given work at once": Case([A(150)], [(150, [2])]),
    "arrivals gather while the engine is busy": Case(
        [A(0, images=3), A(60, boxes=2), A(90)], [(100, [2, 3, 4])]
    ),
    # The engine is free at 100, and the first to wait has waited 5 of 10 by then.
    "the window begins with the first arrival": Case(
        [A(95), A(97), A(104), A(106)], [(105, [2, 3, 4]), (205, [5])]
    ),
    "a launch is bounded": Case(
        [A(50)] * 7, [(100, [2, 3, 4]), (200, [5, 6, 7]), (300, [8])], most=3
    ),
    "what does not fit is not overtaken": Case(
        [A(50, images=2), A(50, images=2), A(50)], [(100, [2]), (200, [3, 4])], most=3
    ),
    "a request beyond the bounds goes alone": Case(
        [A(50), A(50), A(50, images=9), A(50), A(50)],
        [(100, [2, 3]), (200, [4]), (300, [5, 6])],
        most=3,
    ),
    "a full launch does not wait for the window": Case(
        [A(96), A(97), A(198), A(203)], [(100, [2, 3]), (203, [4, 5])], most=2
    ),
    "what is not alike makes no launch full": Case(
        [A(96), A(97, other=UINT8)], [(106, [2]), (206, [3])], most=2
    ),
    "what a full launch leaves waits for the window": Case(
        [A(50), A(50), A(98)], [(100, [2, 3]), (398, [4])], most=2, window=300
    ),
    "sizes of images may differ": Case(
        [A(20), A(21, images=2, other={"image_size": [(8, 8), (9, 9)]})], [(100, [2, 3])]
    ),
    # A pair fills a launch; the odd one is next once it has waited longest, full or not.
    "nobody starves": Case(
        [A(60), A(61), A(62, other=UINT8), A(63), A(64), A(65), A(66)],
        [(100, [2, 3]), (200, [4]), (300, [5, 6]), (400, [7, 8])],
        most=2,
    ),
    # At once: an idle engine gains nothing.
    "the longest wait is over where another group is full": Case(
        [A(97, other=UINT8), A(98), A(98)], [(100, [2]), (200, [3, 4])], most=2
    ),
    "the longest wait is over when another group gets full": Case(
        [A(97, other=UINT8), A(103), A(103)], [(103, [2]), (203, [3, 4])], most=2
    ),
    "callers that have gone are not computed": Case(
        [A(50, leaves=60), A(51), A(52, leaves=60)],
        [(100, [3])],
        {2: (100, Cancelled), 4: (100, Cancelled)},
        first=A(0, leaves=20),
    ),
    # They wait no longer, and the thread that computes notices nothing.
    "what is out of time is not computed": Case(
        [A(50, expires=101), A(50, expires=100), A(50, expires=60)],
        [(100, [2])],
        {3: (100, Expired), 4: (60, Expired)},
        first=A(0, expires=20),
    ),
    "an idle engine computes nothing in no time": Case(
        [A(0, expires=1e19)], [(0, [2])], {1: (0, Expired)}, first=A(0, expires=0)
    ),
    # The request that has left by then is not computed again, and holds up no other.
    "a deadline in a launch that fails": Case(
        [A(50), A(50, expires=150), A(50)],
        [(100, [2, 3, 4]), (200, [2]), (300, [4])],
        {3: (150, Expired)},
        failures={2: [BAD]},
    ),
    "a deadline during another's computation": Case(
        [A(50), A(50, expires=150), A(120)], [(100, [2, 3]), (200, [4])], {3: (150, Expired)}
    ),
    # The first would launch at 350.
    "the next one launches where the first is out of time": Case(
        [A(50, expires=120), A(60), A(61)], [(360, [3, 4])], {2: (120, Expired)}, window=300
    ),
    "a group of which all are out of time is passed over": Case(
        [A(50, expires=60), A(51, other=UINT8)], [(100, [3])], {2: (60, Expired)}
    ),
    "a group of which all have gone is passed over": Case(
        [A(50, leaves=60), A(51, other=UINT8)], [(100, [3])], {2: (100, Cancelled)}
    ),
    "callers that have gone take no room": Case(
        [A(50), A(50, boxes=9, expires=60), A(50, boxes=9, leaves=60), A(50), A(50)],
        [(100, [2, 5]), (200, [6])],
        {3: (60, Expired), 4: (100, Cancelled)},
        most=2,
    ),
    "what is out of time makes no launch full": Case(
        [A(50), A(50, expires=60), A(70)], [(350, [2, 4])], {3: (60, Expired)}, most=3, window=300
    ),
    "what failed alone is not computed again": Case(
        [A(0)], [(0, [1]), (100, [2])], {1: (100, ValueError)}, failures={1: [BAD]}
    ),
    "callers that have gone are not computed after a failure": Case(
        [A(50), A(50, expires=250), A(50, leaves=250), A(50)],
        [(100, [2, 3, 4, 5]), (200, [2]), (300, [5])],
        {3: (250, Expired), 4: (300, Cancelled)},
        failures={2: [BAD]},
    ),
    # At once, and those that come later; the one that computes gets its masks.
    "closing ends all waits": Case(
        [A(50), A(51, other=UINT8), A(70)],
        [],
        {2: (60, Stopping), 3: (60, Stopping), 4: (70, Stopping)},
        closes=60,
    ),
    "closing ends waits for what others compute": Case(
        [A(50), A(50), A(120)],
        [(100, [2, 3])],
        {3: (160, Stopping), 4: (160, Stopping)},
        closes=160,
    ),
    "after closing nothing is repeated": Case(
        [A(50), A(50), A(120)],
        [(100, [2, 3])],
        {2: (200, Stopping), 3: (160, Stopping), 4: (160, Stopping)},
        closes=160,
        failures={2: [BAD]},
    ),
    "closing ends the window": Case([A(50)], [], {2: (120, Stopping)}, window=300, closes=120),
    # Neither the others of that launch nor other groups.
    "an interrupted launch leaves no request waiting": Case(
        [A(50), A(50), A(51, other=UINT8)],
        [(100, [2, 3]), (200, [3]), (300, [4])],
        {2: (200, KeyboardInterrupt)},
        failures={2: [KeyboardInterrupt()]},
    ),
    "an interrupted wait leaves no request waiting": Case(
        [A(50, interrupts=100), A(60), A(350), A(360)],
        [(100, [3]), (350, [4]), (450, [5])],
        {2: (100, SystemExit)},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_batches(name: str) -> None:
    case = CASES[name]
    bounds = [{"max_patches": case.most * PATCHES}, {"max_boxes": case.most}]
    for bound in bounds if case.most else [{}]:
        with simulated() as clock:
            check(clock, case, **bound)


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
    arrivals = [A(20), A(21, other=other), A(22), A(23, other=other)]
    check(clock, Case(arrivals, [(100, [2, 4]), (200, [3, 5])]))


@pytest.mark.parametrize("failures", [1, 2])
def test_one_failure_does_not_fail_the_others(
    clock: Clock, failures: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Each is computed alone then, while others wait; one that fails again gets the error."""
    case = Case(
        [A(50), A(50), A(50), A(150)],
        [(100, [2, 3, 4]), (200, [2]), (300, [3]), (400, [4]), (500, [5])],
        {3: (400, ValueError)} if failures == 2 else {},
        failures={3: [BAD] * failures},
    )
    with caplog.at_level(logging.WARNING):
        check(clock, case)
    (record,) = caplog.records
    assert record.getMessage() == "a launch failed"
    assert vars(record)["requests"] == 3
    assert record.exc_info is not None


@pytest.mark.parametrize("alone", [False, True])
def test_a_broken_device_fails_all_requests(clock: Clock, alone: bool) -> None:
    """Also one that breaks when a request is computed alone, since the launch failed."""
    first, end = EngineBroken("broken"), 300 if alone else 200
    launches = [(100.0, [2, 3]), (200.0, [2])] if alone else [(100.0, [2, 3])]
    arrivals = [A(50), A(50), A(150), A(151, other=UINT8), A(end + 50)]
    broken = dict.fromkeys((2, 3, 4, 5), (end, EngineBroken)) | {6: (end + 50, EngineBroken)}
    failures: list[BaseException] = [first, BAD] if alone else [first]
    # Closing it changes nothing then.
    ended = check(clock, Case(arrivals, launches, broken, closes=end + 10, failures={2: failures}))
    assert {str(task.error) for task in ended[1:]} == {"broken"}
    assert len({id(task.error) for task in ended}) == len(ended)  # tracebacks of their own
    assert ended[1].error is first  # which knows its cause


def test_a_failing_report_leaves_no_request_waiting(clock: Clock) -> None:
    engine = Engine(clock)
    fails = iter([False, True, False, True, False])

    def launched(size: int) -> None:
        if next(fails):
            raise ZeroDivisionError
        engine.reported.append(size)

    arrivals, ended = [A(50), A(50), A(51, other=UINT8)], {3: (200, ZeroDivisionError)}
    check(clock, Case(arrivals, [(100, [2]), (200, [4])], ended), engine, launched=launched)


@st.composite
def schedules(draw: st.DrawFn) -> list[tuple[Arrival, int]]:
    """Requests, and how often each fails."""
    patience = st.just(math.inf) | st.integers(0, 3 * WORK)
    schedule = []
    for _ in range(draw(st.integers(0, 25))):
        at = draw(st.integers(0, 5 * WORK))
        images, boxes = draw(st.integers(1, 4)), draw(st.integers(1, 3))
        expires, leaves = at + draw(patience), at + draw(patience)
        other = {"dtype": draw(st.sampled_from(["float32", "float16"]))}
        arrival = A(at, images, boxes, expires, leaves, other=other)
        schedule.append((arrival, draw(st.sampled_from([0, 0, 0, 1, 9]))))
    return schedule


@given(schedules(), st.integers(1, 12), st.integers(1, 12), st.sampled_from([0, WINDOW, 3 * WORK]))
def test_each_request_gets_its_own_answer(
    schedule: list[tuple[Arrival, int]], max_images: int, max_boxes: int, window: int
) -> None:
    """Whatever arrives when: an answer, or an error that this request has earned."""
    arrivals = [arrival for arrival, _ in schedule]
    with simulated() as clock:
        engine = Engine(clock)
        for name, (_, failures) in enumerate(schedule):
            engine.failures[name] = [ValueError(name) for _ in range(failures)]
        bounds = {"max_patches": max_images * PATCHES, "max_boxes": max_boxes}
        requests = [arrival.request(clock, name) for name, arrival in enumerate(arrivals)]
        batcher = engine.batcher(window_seconds=window, **bounds)
        ended = run(clock, batcher, arrivals, requests)
    launched = {name: start for start, names in engine.launches for name in names}
    for name, ((arrival, failures), end) in enumerate(zip(schedule, ended, strict=True)):
        if end.error is None:
            assert is_filled(requests[name])
            assert end.time == launched[name] + WORK
        elif isinstance(end.error, Expired):
            assert end.time >= arrival.expires
        elif isinstance(end.error, Cancelled):
            assert end.time >= arrival.leaves
        else:
            assert isinstance(end.error, ValueError)
            assert failures
            assert end.error.args == (name,)
    for start, names in engine.launches:
        asked = [arrivals[name] for name in names]
        assert len({arrival.other["dtype"] for arrival in asked}) == 1
        assert all(start < min(arrival.expires, arrival.leaves) for arrival in asked)
        if len(names) > 1:
            assert sum(arrival.images for arrival in asked) <= max_images
            assert sum(arrival.images * arrival.boxes for arrival in asked) <= max_boxes
    # The one that has waited longest is in the next launch; what is alike keeps its order.
    arrived = {name: (arrival.at, name) for name, arrival in enumerate(arrivals)}
    waiting = {name for _, names in engine.launches for name in names}
    for _, names in engine.launches:
        if waiting.issuperset(names):  # and is not repeated
            assert names == sorted(names, key=arrived.__getitem__)
            assert names[0] == min(waiting, key=arrived.__getitem__)
            waiting.difference_update(names)
