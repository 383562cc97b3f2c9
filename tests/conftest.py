"""What all tests share: how they are spread over processes, a server, the reference answers."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

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


def pytest_xdist_auto_num_workers() -> int:
    """Twice the cores: most tests wait for other processes. Each needs some 600 MB."""
    return min(2 * (os.cpu_count() or 1), 8)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that share what their module holds, a server say, run in one process, one by one."""
    for item in items:
        definitions = item._fixtureinfo.name2fixturedefs  # type: ignore[attr-defined]
        if any(found[-1].scope == "module" for found in definitions.values()):
            item.add_marker(pytest.mark.xdist_group(item.nodeid.partition("::")[0]))


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
