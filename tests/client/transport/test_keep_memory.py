"""Memory that is kept: in loaders' workers by itself, elsewhere where it is asked for."""

from __future__ import annotations

import ctypes
import json
import platform
import sys

import pytest

import cass_client
from tests.client.torch.test_loaders import run
from tests.support.programs import printed

pytestmark = [pytest.mark.timeout(220), pytest.mark.slow]

glibc = pytest.mark.skipif(
    sys.platform != "linux" or platform.libc_ver()[0] != "glibc", reason="glibc's malloc alone"
)
# Five blocks of 40 MiB have 10,240 pages each, or 20 huge ones; what Python does beside them has a
# few.
MANY, FEW = 5 * 20, 50


@glibc
@pytest.mark.parametrize("context", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_workers_keep_it_and_the_parent_does_not(context: str) -> None:
    found = json.loads(run("memory", "local:", context, ""))
    assert found["worker"] < FEW
    for other in ("told not to", "no worker", "parent"):
        assert found[other] >= MANY, (other, found)


@glibc
def test_a_program_that_asks_for_it() -> None:
    """In a process of its own: it stays."""
    program = (
        "import cass_client; from tests.client.support.loader_programs import faults\n"
        "print(faults(), cass_client.keep_memory(), faults())"
    )
    before, could, after = printed("-c", program).split()
    assert int(before) >= MANY
    assert could == "True"
    assert int(after) < FEW


def test_other_libraries_are_left_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """One without mallopt, such as musl, cannot be had here."""
    monkeypatch.setattr(ctypes, "CDLL", lambda _: object())
    assert cass_client.keep_memory() is False


@glibc
@pytest.mark.parametrize("old", [False, True])
def test_what_is_free_is_known(old: bool) -> None:
    """Also of a glibc before 2.33, which has no mallinfo2."""
    program = (
        "import ctypes, types; from cass.malloc import free_bytes, keep_memory\n"
        "keep_memory(); block = bytearray(100 << 20)\n"
        f"old = types.SimpleNamespace(mallinfo=ctypes.CDLL(None).mallinfo) if {old} else None\n"
        "ctypes.CDLL = ctypes.CDLL if old is None else lambda _: old\n"
        "before = free_bytes(); del block; print(free_bytes() - before)"
    )
    assert int(printed("-c", program)) == pytest.approx(100 << 20, abs=1 << 20)
