"""Streams whose answers are too many, too few, empty, or wrong in the middle."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from cass.v1 import cass_pb2 as pb
from cass_client import CassClient, FallbackWarning, MaskRequest, ServerError
from tests.client.support.edited_answers import EditingServer
from tests.client.support.faults import MAP, SIZE, SPEC, assert_right, on_a_loop, request
from tests.client.support.small_servers import LIMIT

pytestmark = pytest.mark.timeout(120)

Stream = Callable[..., Iterator[Any]]


def plain(address: str, requests: Any, in_flight: int = 4, fallback: Any = None) -> Iterator[Any]:
    """Answers of `CassClient.stream_masks`."""
    with CassClient(address, timeout=LIMIT, fallback=fallback) as client:
        yield from client.stream_masks(requests, in_flight=in_flight)


@pytest.fixture(params=[plain, on_a_loop])
def stream(request: pytest.FixtureRequest) -> Stream:
    """Answers of one of the clients."""
    way: Stream = request.param
    return way


def doubled(entry: Any) -> list[Any]:
    return [entry, entry]


def neither(_: Any) -> list[Any]:
    return [pb.StreamMasksResponse()]


def an_error(_: Any) -> list[Any]:
    return [pb.StreamMasksResponse(error=pb.Error(code=13, message="why"))]


class Nth:
    """The entry at this place is a wrong one; all others are right.

    Args:
        place: counted from 0.
        wrong: makes it.
    """

    def __init__(self, place: int, wrong: Callable[[Any], list[Any]]) -> None:
        self._left = place
        self._wrong = wrong

    def __call__(self, entry: Any) -> list[Any]:
        self._left -= 1
        return [entry] if self._left != -1 else self._wrong(entry)


def without_masks(entry: Any) -> list[Any]:
    entry.masks.ClearField("masks")
    return [entry]


def for_one_image(entry: Any) -> list[Any]:
    mask = entry.masks.masks[0]
    mask.shape[0] = 1
    mask.data = mask.data[: len(mask.data) // 2]
    return [entry]


def garbage(_: Any) -> list[Any]:
    return [b"\xff\xff"]


WRONG = {
    "neither masks nor an error": (neither, "result: must be masks or an error, got neither$"),
    "no masks": (without_masks, "masks: requested 1, got 0$"),
    "one image": (
        for_one_image,
        rf"masks\[0\]: requested float32 \[2, {MAP[0]}, {MAP[1]}\], got float32 \[1, ",
    ),
    "not a message": (garbage, "answer: is not a cass.v1.StreamMasksResponse$"),
}


@pytest.mark.parametrize("in_flight", [1, 4])
@pytest.mark.parametrize(("wrong", "text"), WRONG.values(), ids=WRONG)
def test_a_wrong_entry_in_the_middle(
    editing: EditingServer, stream: Stream, wrong: Any, text: str, in_flight: int
) -> None:
    """Is an error in its place, after the answers to those before it."""
    editing.entries = Nth(3, wrong)
    answers = stream(editing.address, map(request, range(8)), in_flight)
    assert_right([next(answers) for _ in range(3)], range(3))
    with pytest.raises(ServerError, match=f"^{editing.address}: the answer does not fit .*{text}"):
        next(answers)
    assert list(answers) == []
    assert editing.calls == ["StreamMasks"]


@pytest.mark.parametrize("in_flight", [1, 4])
@pytest.mark.parametrize(("wrong", "text"), WRONG.values(), ids=WRONG)
def test_a_wrong_entry_with_a_fallback(
    editing: EditingServer, wrong: Any, text: str, in_flight: int
) -> None:
    editing.entries = Nth(3, wrong)
    with pytest.warns(FallbackWarning, match=text.rstrip("$")):
        found = list(plain(editing.address, map(request, range(8)), in_flight, fallback="local"))
    assert_right(found, range(8))
    assert "GenerateMask" not in editing.calls


def test_an_answer_too_many(editing: EditingServer, stream: Stream) -> None:
    """Each is given twice, and the requests are alike: the end tells."""
    editing.entries = doubled
    answers = stream(editing.address, map(request, range(6)))
    for _ in range(6):
        next(answers)
    with pytest.raises(
        ServerError, match=f"^{editing.address}: the stream has more answers than requests"
    ):
        next(answers)


def test_an_answer_too_many_among_others(editing: EditingServer, stream: Stream) -> None:
    editing.entries = doubled
    halves = MaskRequest(request(1).boxes, SIZE, (6, 10), SPEC)
    answers = stream(editing.address, [request(0), halves, request(2)])
    assert_right([next(answers)], [0])
    with pytest.raises(ServerError, match=r"requested float32 \[2, 6, 10\], got float32 \[2, "):
        next(answers)


def test_entries_that_are_errors(editing: EditingServer, stream: Stream) -> None:
    """Each is requested again by a call, which tells more."""
    editing.entries = an_error
    assert_right(list(stream(editing.address, map(request, range(4)))), range(4))
    assert editing.calls.count("GenerateMask") == 4


def test_the_end_of_a_stream(editing: EditingServer, stream: Stream) -> None:
    assert_right(list(stream(editing.address, map(request, range(9)))), range(9))
    assert list(stream(editing.address, [])) == []
    assert editing.calls == ["StreamMasks"]
