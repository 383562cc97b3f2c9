"""Large batches are shared out among threads, and the results do not depend on how many."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from cass_core import LossSpec, MaskSpec, compute_loss, generate_mask
from cass_core.cpu import threads
from cass_core.synthetic import street_boxes
from tests.support.programs import printed

SIZE, CELLS, IMAGES = (736, 1280), (184, 320), 24  # 1.4 million patches
BOXES = street_boxes(IMAGES, 8, image_size=SIZE)


@pytest.fixture(autouse=True)
def _set_back() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_masks(dtype: str) -> None:
    found = []
    for count in (1, 2, 3, 7):
        torch.set_num_threads(count)
        spec = MaskSpec(patch_size=1)
        found.append(generate_mask(BOXES, SIZE, CELLS, spec, dtype=dtype, return_owner=True))
    for mask, owner in found[1:]:
        np.testing.assert_array_equal(mask, found[0][0])
        np.testing.assert_array_equal(owner, found[0][1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_losses(dtype: torch.dtype, reduction: str) -> None:
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(700_001, generator=generator).to(dtype)
    target = torch.rand(700_001, generator=generator)
    found = []
    for count in (1, 2, 5):
        torch.set_num_threads(count)
        spec = LossSpec(reduction=reduction)  # type: ignore[arg-type]
        found.append(compute_loss(logits, target, spec, return_grad=True))
    for result in found[1:]:
        assert torch.equal(result.loss, found[0].loss)
        assert torch.equal(result.sum, found[0].sum)
        assert torch.equal(result.grad, found[0].grad)


def test_split_covers_everything_once() -> None:
    torch.set_num_threads(4)
    seen, names, lock = [], set(), threading.Lock()
    meeting = threading.Barrier(4, timeout=60)

    def work(first: int, last: int) -> None:
        meeting.wait()  # passes only if all four parts are under way at a time
        with lock:
            seen.extend(range(first, last))
            names.add(threading.current_thread().name)

    threads.split(10, work, 2)
    assert sorted(seen) == list(range(10))
    assert len(names) == 4


def test_small_work_stays_on_the_thread() -> None:
    torch.set_num_threads(8)
    names = []
    threads.split(10, lambda *_: names.append(threading.current_thread().name), 6)
    assert names == [threading.current_thread().name]


def test_an_error_in_a_part_is_raised() -> None:
    torch.set_num_threads(2)

    def work(first: int, last: int) -> None:
        if first > 0:
            raise ValueError(last)

    with pytest.raises(ValueError, match="10"):
        threads.split(10, work, 1)


def _mask_sum(queue: multiprocessing.Queue[float]) -> None:
    torch.set_num_threads(2)
    queue.put(float(generate_mask(BOXES, SIZE, CELLS).sum()))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_child_has_threads_of_its_own() -> None:
    torch.set_num_threads(2)
    expected = float(generate_mask(BOXES, SIZE, CELLS).sum())  # the pool exists now
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=_mask_sum, args=(queue,))
    child.start()
    try:
        assert queue.get(timeout=60) == expected
    finally:
        child.kill()
        child.join()


COUNT = "from cass_core.cpu.threads import thread_count; print(thread_count())"


@pytest.mark.parametrize(("setting", "expected"), [("3", "3"), ("1", "1")])
def test_openmps_setting_where_torch_is_not_loaded(setting: str, expected: str) -> None:
    assert printed("-c", COUNT, env={"OMP_NUM_THREADS": setting}).strip() == expected


def test_the_cores_where_nothing_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert int(printed("-c", COUNT)) == len(os.sched_getaffinity(0))
