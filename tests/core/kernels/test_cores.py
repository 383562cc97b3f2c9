"""How many cores a process may use, where its container has fewer than the machine."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cass_core.cpu.cores import core_count, core_limit
from tests.support.programs import printed

V1, V2 = "4:cpu,cpuacct:{}\n3:memory:/elsewhere\n", "0::{}\n"
QUOTA, PERIOD = "cpu.cfs_quota_us", "cpu.cfs_period_us"


@pytest.mark.parametrize(
    ("groups", "files", "cores"),
    [
        (V2.format("/"), {"cpu.max": "100000 100000\n"}, 1),
        (V2.format("/"), {"cpu.max": "max 100000\n"}, None),
        (V2.format("/"), {"cpu.max": "150000 100000\n"}, 2),
        (V2.format("/"), {"cpu.max": "20000 100000\n"}, 1),
        # The limit of a group around this one holds too: the least counts.
        (V2.format("/a/b"), {"a/cpu.max": "300000 100000", "a/b/cpu.max": "max 100000"}, 3),
        (V2.format("/a/b"), {"a/cpu.max": "300000 100000", "a/b/cpu.max": "100000 50000"}, 2),
        # The path is the host's, which a container does not see.
        (V2.format("/host/pod/c"), {"cpu.max": "200000 100000"}, 2),
        (V2.format("/../other"), {"cpu.max": "200000 100000"}, 2),
        (V2.format("/a"), {"unified/a/cpu.max": "200000 100000"}, 2),
        (V1.format("/"), {f"cpu,cpuacct/{QUOTA}": "100000", f"cpu,cpuacct/{PERIOD}": "100000"}, 1),
        (V1.format("/"), {f"cpu,cpuacct/{QUOTA}": "-1", f"cpu,cpuacct/{PERIOD}": "100000"}, None),
        (V1.format("/d/c"), {f"cpu/d/c/{QUOTA}": "250000", f"cpu/d/c/{PERIOD}": "100000"}, 3),
        (V1.format("/docker/id"), {f"cpu/{QUOTA}": "50000\n", f"cpu/{PERIOD}": "50000\n"}, 1),
        # Both versions, as with systemd's hybrid layout: only the old one has the controller.
        (
            V2.format("/") + V1.format("/"),
            {f"cpu/{QUOTA}": "100000", f"cpu/{PERIOD}": "100000", "cpu.max": "max 100000"},
            1,
        ),
        ("3:memory:/\n", {f"cpu/{QUOTA}": "100000", f"cpu/{PERIOD}": "100000"}, None),
        (V2.format("/"), {"cpu.max": "nonsense"}, None),
        (V2.format("/"), {}, None),
        (None, {"cpu.max": "100000 100000"}, None),
    ],
)
def test_limits_of_control_groups(
    groups: str | None, files: dict[str, str], cores: int | None, tmp_path: Path
) -> None:
    """Written after the kernel's documents, cgroup-v2.rst and sched-bwc.rst."""
    for name, text in files.items():
        file = tmp_path / "sys/fs/cgroup" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    if groups is not None:
        (tmp_path / "proc/self").mkdir(parents=True)
        (tmp_path / "proc/self/cgroup").write_text(groups)
    limit = core_limit(tmp_path)
    assert limit == cores if cores is not None else limit > 1 << 20


@contextlib.contextmanager
def group_of(cores: float, parent: Path = Path("/sys/fs/cgroup/cpu")) -> Iterator[Path]:
    """A control group of its own with so many cores; skips where there can be none."""
    group = parent / f"cass-test-{os.getpid()}"
    try:
        group.mkdir()
        (group / QUOTA).write_text(str(round(cores * 100_000)))
        (group / PERIOD).write_text("100000")
    except OSError as error:
        with contextlib.suppress(OSError):
            group.rmdir()
        pytest.skip(f"no control group can be made here: {error}")
    try:
        yield group
    finally:
        group.rmdir()


COUNTS = """
import os, sys
with open(sys.argv[1] + "/cgroup.procs", "w") as file:
    file.write(str(os.getpid()))
if sys.argv[2] == "torch":
    import torch
    torch.set_num_threads(2)
from cass_core.cpu.cores import core_count
from cass_core.cpu.threads import thread_count
print(core_count(), thread_count())
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="control groups are Linux'")
@pytest.mark.parametrize("loaded", ["numpy", "torch"])
def test_a_real_control_group_of_one_core(loaded: str) -> None:
    with group_of(1.0) as group:
        counts = printed("-c", COUNTS, group, loaded, env={"OMP_NUM_THREADS": ""})
    assert counts.split() == ["1", "1"]


def test_no_more_than_the_affinity() -> None:
    if hasattr(os, "sched_getaffinity"):
        assert core_count() <= len(os.sched_getaffinity(0))
