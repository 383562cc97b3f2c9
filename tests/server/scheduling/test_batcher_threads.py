"""A `Batcher` under real threads, and the numbers of merged requests."""

from __future__ import annotations

import gc
import itertools
import math
import threading
import weakref
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from time import monotonic
from typing import Any

import numpy as np
import pytest

from cass_core import MaskSpec, generate_mask
from cass_core.cpu.backend import compute_masks
from cass_core.inputs import MaskInputs
from cass_core.synthetic import street_boxes
from cass_server.exceptions import Cancelled, Expired, NotCompiled, Stopping
from cass_server.scheduling.batcher import Batcher, BatchRequest, Output, merge
from tests.server.support.batches import (
    PATCHES,
    batch_request,
    fill,
    is_filled,
    mask_inputs,
    unfilled,
    values_of,
)
from tests.server.support.processes import LIMIT, Gate


class Seen:
    """An `is_wanted` that records when it was called: its request waits, or soon does."""

    def __init__(self) -> None:
        self.event = threading.Event()

    def __call__(self) -> bool:
        self.event.set()
        return True


def test_threads_wait_for_the_engine_the_window_and_their_deadlines() -> None:
    gate, sizes, seen = Gate(), list[int](), Seen()

    def compute(inputs: MaskInputs, outputs: Sequence[Output]) -> None:
        gate.wait()
        fill(inputs, outputs)

    batcher = Batcher(
        compute, window_seconds=0.01, max_patches=1 << 20, max_boxes=1 << 20, launched=sizes.append
    )
    requests = [batch_request(name, math.inf, seen) for name in range(4)]
    with ThreadPoolExecutor(8) as pool:
        filled = [pool.submit(batcher.fill, requests[0])]
        gate.wait_held()
        late = pool.submit(batcher.fill, batch_request(9, monotonic() + 0.01))
        assert isinstance(late.exception(LIMIT), Expired)
        for one in requests[1:]:
            seen.event.clear()
            filled.append(pool.submit(batcher.fill, one))
            assert seen.event.wait(LIMIT)
        assert not any(future.done() for future in filled)
        gate.open()
        assert [future.result(LIMIT) for future in filled] == [None] * 4
    assert all(map(is_filled, requests))
    assert sizes == [1, 3]


def test_many_threads_at_once() -> None:
    """No launch beside another, an end for each request, and to each what is its own."""
    callers, calls = 16, 60
    busy = threading.Lock()
    sizes: list[int] = []

    def compute(inputs: MaskInputs, outputs: Sequence[Output]) -> None:
        if not busy.acquire(blocking=False):
            pytest.fail("two launches at a time")
        try:
            fill(inputs, outputs)
            for name in (int(value[0]) for value in values_of(inputs, outputs)):
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
        one = batch_request(name % 251, expires, lambda: next(is_there), dtype=dtype)
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


def test_a_kernel_that_is_not_compiled_is_each_callers_to_see_to(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It is no failure of the launch that finds it out; after that they share one again."""
    gate, sizes, seen, is_compiled = Gate(), list[int](), Seen(), threading.Event()

    def compute(inputs: MaskInputs, outputs: Sequence[Output]) -> None:
        if inputs.dtype == "uint8":
            gate.wait()
        elif not is_compiled.is_set():
            raise NotCompiled("some_kernel", is_compiled.set)
        fill(inputs, outputs)

    batcher = Batcher(
        compute, window_seconds=0.01, max_patches=1 << 20, max_boxes=1 << 20, launched=sizes.append
    )

    def all_at_once(requests: list[BatchRequest]) -> list[BaseException | None]:
        """What becomes of requests that wait for the same launch."""
        first = batch_request(9, dtype="uint8")
        filled = [pool.submit(batcher.fill, first)]
        gate.wait_held()
        for one in requests:
            seen.event.clear()
            filled.append(pool.submit(batcher.fill, one))
            assert seen.event.wait(LIMIT)
        gate.let_go()
        return [future.exception(LIMIT) for future in filled[1:]]

    requests = [batch_request(name, math.inf, seen) for name in range(1, 4)]
    with ThreadPoolExecutor(8) as pool:
        errors = all_at_once(requests)
        assert sizes == [1, 3, 1, 1, 1]
        assert not caplog.records
        for error in errors:
            assert isinstance(error, NotCompiled)
            error.compile()
        assert all_at_once(requests) == [None] * 3
    assert all(map(is_filled, requests))
    assert sizes[5:] == [1, 3]


def test_closing_amid_many_threads() -> None:
    """Each call ends: with its answer before, and without one after."""
    begun = threading.Barrier(9)
    batcher = Batcher(
        fill, window_seconds=0.001, max_patches=5 * PATCHES, max_boxes=5, launched=lambda _: None
    )

    def call_until_closed(caller: int) -> int:
        begun.wait(LIMIT)
        for calls in itertools.count():
            one = batch_request(caller)
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
            batcher.fill(batch_request(caller))


@pytest.mark.parametrize("error", [ValueError("bad"), None])
def test_an_error_does_not_keep_arrays(error: Exception | None) -> None:
    """Until the garbage collector runs, which many large ones would not live to see."""

    def compute(inputs: MaskInputs, outputs: Sequence[Output]) -> None:
        raise AssertionError if error is None else error

    def keep() -> weakref.ref[Any]:
        one = batch_request(1, math.inf if error is not None else 0)
        with pytest.raises(Expired if error is None else ValueError):
            batcher.fill(one)
        return weakref.ref(one.masks[0])

    batcher = Batcher(
        compute, window_seconds=0, max_patches=1, max_boxes=1, launched=lambda size: None
    )
    gc.collect()
    gc.disable()
    try:
        kept = keep()
        if error is not None:
            error.__traceback__ = None
        assert kept() is None
    finally:
        gc.enable()


def compute_really(inputs: MaskInputs, outputs: Sequence[Output]) -> None:
    """By the CPU's loops."""
    masks, owners, _ = compute_masks(inputs)
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
        unfilled(MaskInputs.check(boxes, sizes, maps, MaskSpec(patch_size=1), dtype, return_owner))
        for boxes, sizes in arguments
    ]
    inputs = merge([request.inputs for request in requests])
    compute_really(inputs, [(request.masks, request.owners) for request in requests])
    for (boxes, sizes), filled in zip(arguments, requests, strict=True):
        expected = generate_mask(
            boxes, sizes, maps, MaskSpec(patch_size=1), dtype=dtype, return_owner=return_owner
        )
        masks, owners = expected if return_owner else (expected, [])
        for ours, theirs in zip((*filled.masks, *filled.owners), (*masks, *owners), strict=True):
            assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)
            assert ours.tobytes() == theirs.tobytes()
    assert requests[0].masks[0].max() > 0


def test_one_size_for_all_stays_one() -> None:
    """Which saves its way to the device."""
    assert merge([mask_inputs(1), mask_inputs(2, 3)]).sizes.tolist() == [[32, 32]]
    differing = [mask_inputs(1), mask_inputs(2, 2, image_size=(16, 32))]
    assert merge(differing).sizes.tolist() == [[32, 32], [16, 32], [16, 32]]
