"""What the tests of a client against faults share: work with known answers, and what breaks it."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import multiprocessing
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from cass_client import AsyncCassClient, CassClient, MaskRequest, MaskSpec
from cass_core import generate_mask
from cass_core.synthetic import street_boxes
from tests.server.support.processes import LIMIT, held
from tests.support.servers import ServerProcess, server_process

SPEC = MaskSpec(patch_size=1)
SIZE, MAP = (96, 160), (12, 20)


def request(seed: int) -> MaskRequest:
    """A batch of two images that depends on the seed."""
    return MaskRequest(street_boxes(2, 5, image_size=SIZE, seed=seed), SIZE, MAP, SPEC)


def ask(client: CassClient, seed: int) -> Any:
    """The masks of a batch, by a call."""
    wanted = request(seed)
    return client.generate_mask(wanted.boxes, SIZE, MAP, SPEC)


def expected(seed: int) -> Any:
    """The masks of a batch, by the core in this process."""
    return generate_mask(request(seed).boxes, SIZE, MAP, SPEC)


def assert_right(masks: Any, seeds: Sequence[int]) -> None:
    """Assert that these are the masks of these batches, in their order, bit by bit."""
    assert len(masks) == len(seeds)
    for mask, seed in zip(masks, seeds, strict=True):
        np.testing.assert_array_equal(mask, expected(seed), str(seed))


@contextlib.contextmanager
def all_serving(*starts: Callable[[], Any]) -> Iterator[list[Any]]:
    """Several servers that start at the same time, as `server_process` makes them."""
    with contextlib.ExitStack() as stack:
        servers = [stack.enter_context(start()) for start in starts]
        for server in servers:
            server.wait_until_serving()
        yield servers


def start(*arguments: str, **options: Any) -> Callable[[], Any]:
    """For `all_serving`."""
    return lambda: server_process(*arguments, **options)


class Hold:
    """Lets a server wait in the middle of each request.

    See `tests.server.support.programs.held_server`.

    Args:
        folder: made here; of one server.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self._go, self._waiting = folder / "go", folder / "waiting"
        (folder / "warm").touch()
        self.program = held(folder)
        self.let_go()

    def hold(self) -> None:
        """From now on requests wait."""
        self._go.unlink(missing_ok=True)
        self._waiting.unlink(missing_ok=True)

    @property
    def holds(self) -> bool:
        """Whether a request has come since, which waits."""
        return self._waiting.exists()

    def let_go(self) -> None:
        """Answer what waits, and all that comes."""
        self._go.touch()


@contextlib.contextmanager
def held_pair(folder: Path) -> Iterator[tuple[list[ServerProcess], list[Hold]]]:
    """Two replicas that can be held."""
    holds = [Hold(folder / name) for name in ("one", "other")]
    with all_serving(*(start(program=hold.program) for hold in holds)) as servers:
        yield servers, holds


def by_calls(client: CassClient, seeds: Iterable[int]) -> Iterator[Any]:
    """Masks of batches, one call after another."""
    return (ask(client, seed) for seed in seeds)


def by_stream(client: CassClient, seeds: Iterable[int]) -> Iterator[Any]:
    """Masks of batches, over a stream."""
    return client.stream_masks(map(request, seeds), in_flight=4)


def by_async_stream(client: CassClient, seeds: Iterable[int]) -> Iterator[Any]:
    """Masks of batches, over a stream of an event loop's."""
    return on_a_loop(client.target, map(request, seeds))


def on_a_loop(
    address: str, requests: Iterable[Any], in_flight: int = 4, timeout: float = LIMIT
) -> Iterator[Any]:
    """Answers of `AsyncCassClient.stream_masks`."""
    client = AsyncCassClient(address, timeout=timeout)
    answers = client.stream_masks(requests, in_flight=in_flight)
    with asyncio.Runner() as runner, contextlib.suppress(StopAsyncIteration):
        try:
            while True:
                yield runner.run(anext(answers))  # type: ignore[arg-type]
        finally:
            runner.run(answers.aclose())  # type: ignore[attr-defined]
            runner.run(client.close())


def work(
    client: CassClient,
    way: Callable[[CassClient, Sequence[int]], Iterator[Any]],
    seeds: Sequence[int],
    batches: Any,
) -> None:
    """Put each seed with its masks into a queue, or with an error's text, which is the end."""
    at = 0
    try:
        for masks in way(client, seeds):
            batches.put((seeds[at], masks))
            at += 1
    except Exception as error:
        batches.put((seeds[at], repr(error)))


@contextlib.contextmanager
def loader_workers(
    client: CassClient, ways: Sequence[Callable[..., Iterator[Any]]], batches_each: int
) -> Iterator[Any]:
    """A process for each way to ask, with seeds of its own; the queue of their batches.

    They wait until earlier batches are taken, as those of a DataLoader do.
    """
    context = multiprocessing.get_context("spawn")
    batches = context.Queue(maxsize=len(ways))
    workers = []
    for index, way in enumerate(ways):
        seeds = range(index * batches_each, (index + 1) * batches_each)
        workers.append(context.Process(target=work, args=(client, way, seeds, batches)))
    try:
        for worker in workers:
            worker.start()
        yield batches
        for worker in workers:
            worker.join(LIMIT)
            assert worker.exitcode == 0
    finally:
        for worker in workers:
            worker.kill()
            worker.join(LIMIT)
        batches.close()


def keep_asking(client: CassClient, stop: Any, outcomes: Any) -> None:
    """Ask in two threads by calls and in one over a stream until an event is set.

    Puts for each of them into a queue how many right answers it had, or the text of an error.
    """
    right = [expected(seed) for seed in range(8)]

    def answers(way: Callable[..., Iterator[Any]]) -> int | str:
        seeds = itertools.takewhile(lambda _: not stop.wait(0.005), itertools.cycle(range(8)))
        number = 0
        try:
            for masks in way(client, seeds):
                np.testing.assert_array_equal(masks, right[number % 8])
                number += 1
        except Exception as error:
            return f"{number} answers, then {error!r}"
        return number

    with ThreadPoolExecutor(3) as pool:
        for outcome in pool.map(answers, (by_calls, by_calls, by_stream)):
            outcomes.put(outcome)
