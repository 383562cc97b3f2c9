"""What goes to a device and back through a few buffers, of which none grows beyond its bound."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from cass_server.engines.staging import Staging  # noqa: E402

CPU = torch.device("cpu")


@pytest.mark.parametrize("max_bytes", [1, 5, 24, 1 << 20])
def test_results_of_any_size_go_through_a_buffer(max_bytes: int) -> None:
    """Even where neither results nor arrays end where the buffer does."""
    staging = Staging(None, 1, max_bytes)
    results = [torch.arange(12.0).reshape(4, 3), torch.arange(6, dtype=torch.uint8)]
    targets = [
        (np.zeros((1, 3), np.float32), np.zeros((0, 3), np.float32), np.zeros((3, 3), np.float32)),
        (np.zeros(4, np.uint8), np.zeros(2, np.uint8)),
    ]
    with staging.buffer(58) as buffer:
        staging.fetch(
            [*results, torch.empty(0), torch.tensor(7.5)],
            [*targets, (), (np.empty(()),)],
            buffer,
        )
    for result, parts in zip(results, targets, strict=True):
        np.testing.assert_array_equal(np.concatenate(parts), result.numpy())


@pytest.mark.parametrize("max_bytes", [1, 5, 24, 1 << 20])
def test_arrays_of_any_size_go_through_a_buffer(max_bytes: int) -> None:
    """Also those that are read-only, without elements, or not contiguous."""
    staging = Staging(None, 1, max_bytes)
    arrays = [
        np.frombuffer(np.arange(12, dtype=np.float32).tobytes(), np.float32).reshape(3, 4),
        np.empty((0, 4), np.float32),
        np.arange(24, dtype=np.int16).reshape(4, 6)[:, ::2],
        np.array(2.5),
        np.arange(5, dtype=np.uint8),
    ]
    with staging.buffer(sum(array.nbytes for array in arrays)) as buffer:
        copies = staging.send(arrays, buffer, CPU)
    for array, copy in zip(arrays, copies, strict=True):
        assert copy.numpy().dtype == array.dtype
        np.testing.assert_array_equal(copy.numpy(), array)
    with staging.buffer(0) as buffer:
        assert staging.send([], buffer, CPU) == []
        (empty,) = staging.send([np.empty((0, 4), np.float32)], buffer, CPU)
        assert empty.shape == (0, 4)


def test_what_was_sent_is_waited_for_before_its_place_is_used_again() -> None:
    """A copy from pinned memory is under way after the call that starts it."""
    done: list[int] = []

    class Waiting(Staging):
        def _wait(self) -> None:
            done.append(1)

    staging = Waiting(None, 1, 8)
    with staging.buffer(32) as buffer:
        staging.send([np.zeros(32, np.uint8)], buffer, CPU)
        assert len(done) == 3
        staging.fetch([torch.zeros(16, dtype=torch.uint8)], [(np.zeros(16, np.uint8),)], buffer)
        assert len(done) == 5


def test_buffers_grow_and_are_used_again() -> None:
    """Up to the bound, by powers of two."""
    staging = Staging(None, 2, 1000)
    places = []
    for wanted, size in ((100, 128), (60, 128), (128, 128), (600, 1000), (5000, 1000), (1, 1000)):
        with staging.buffer(wanted) as buffer:
            assert len(buffer) == size
            places.append(buffer.data_ptr())
    assert places[0] == places[1] == places[2]
    assert places[3] == places[4] == places[5]


def test_more_callers_than_buffers() -> None:
    staging = Staging(None, 2, 1 << 12)

    def there_and_back(value: int) -> bool:
        array = np.zeros(10_000, np.int32)
        with staging.buffer(array.nbytes) as buffer:
            copies = staging.send([np.full(10_000, value, np.int32)], buffer, CPU)
            staging.fetch(copies, [(array,)], buffer)
        return bool((array == value).all())

    with ThreadPoolExecutor(8) as executor:
        assert all(executor.map(there_and_back, range(64)))


def test_a_buffer_is_new_after_an_error() -> None:
    """What was sent to the old one, or from it, may still be under way."""
    staging, old = Staging(None, 1, 1 << 12), []

    def fail() -> None:
        with staging.buffer(16) as buffer:
            old.append(buffer)
            staging.fetch([torch.zeros(4)], [(np.zeros((2, 4), np.float32)[:, :2],)], buffer)

    for _ in range(2):
        with pytest.raises(ValueError, match="contiguous"):
            fail()
    with staging.buffer(4) as buffer:
        assert len(buffer) == 4
        assert buffer.data_ptr() not in {one.data_ptr() for one in old}
