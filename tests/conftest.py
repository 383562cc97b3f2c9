"""What all tests share: how they are spread over processes, a server, the reference answers."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from tests.hostile.support import table
from tests.support.servers import ServerProcess, serving

# Triton reads it when the kernels are imported: they then run on the CPU.
os.environ["TRITON_INTERPRET"] = "1"

# Shared machines stall: no deadline. Under CI the examples are the same in every run.
settings.register_profile(
    "default",
    deadline=None,
    derandomize="CI" in os.environ,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("default")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A slow test that has no limit of its own has 300 s; four of them run on two cores."""
    for item in items:
        if item.get_closest_marker("slow") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(300))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Twice the cores: most tests wait for other processes. Each needs some 600 MB."""
    return min(2 * (os.cpu_count() or 1), 8)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Tests that share what their module holds, a server say, run in one process, one by one.

    All others run wherever there is room. (The marks of xdist 3.8 do not work with pytest 9.2.)
    """
    from xdist.scheduler import LoadScopeScheduling

    @functools.cache
    def is_shared(file: str) -> bool:
        return 'scope="module"' in (config.rootpath / file).read_text(encoding="utf-8")

    class Scheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            return file if is_shared(file) else nodeid

        def remove_node(self, node: Any) -> str | None:
            # What ended the process has failed, and is not tried again.
            crashed = super().remove_node(node)
            if crashed is not None and (scope := self._split_scope(crashed)) in self.workqueue:
                self.workqueue[scope][crashed] = True
                if all(self.workqueue[scope].values()):
                    del self.workqueue[scope]
            return crashed

        def _reschedule(self, node: Any) -> None:
            # One in place of a process that has ended (a test beyond its limit) may still collect,
            # and begins only once it has two tests.
            for _ in range(2 * (node in self.registered_collections)):
                if self._pending_of(self.assigned_work[node]) < 2:
                    super()._reschedule(node)

    return Scheduling(config, log)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What attacks did, if any were tested."""
    ended = [
        (outcome == "passed", report.user_properties)
        for outcome in ("passed", "failed")
        for report in terminalreporter.getreports(outcome)
        if report.when == "call"
    ]
    if rows := table.lines(ended):
        terminalreporter.section("attacks")
        for row in rows:
            terminalreporter.write_line(row)


_SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with the conformance answers and real data, beside the checkout."""
    if not _SHARED.is_dir():
        pytest.skip("needs ../shared (conformance answers and data sets)")
    return _SHARED


@pytest.fixture(scope="session")
def server() -> Iterator[ServerProcess]:
    """A server without options for all tests that leave it as it is; it must stop cleanly."""
    with serving() as process:
        yield process
        assert process.stop() == 0


@pytest.fixture(scope="session")
def address(server: ServerProcess) -> str:
    """Where the `server` serves."""
    return server.address
