"""How many workers there are, and which device each has."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from cass_server.config.settings import Settings
from cass_server.observability.metrics import Metrics
from cass_server.process import main as process_main
from cass_server.process import worker
from cass_server.rpc.server import compute_threads

GPUS = ["cuda:0", "cuda:1", "cuda:2"]


class Exit(Exception):
    """The process would end now."""


def end(code: int) -> None:
    raise Exit(code)


@pytest.mark.parametrize(
    ("settings", "devices", "workers"),
    [
        (Settings(workers="auto"), GPUS, 3),
        (Settings(workers="auto", device="cuda:1"), ["cuda:1"], 1),
        (Settings(workers="auto", host="unix:/tmp/none"), GPUS, 1),
        (Settings(workers=5), GPUS, 5),
        (Settings(workers="auto"), ["cpu"], 8),
    ],
)
def test_automatic_workers_are_one_a_gpu(
    monkeypatch: pytest.MonkeyPatch, settings: Settings, devices: list[str], workers: int
) -> None:
    """More would take memory and time of it from each other; on a CPU it is one a core."""
    seen: list[Any] = []
    for name in ("keep_memory", "set_up_logging"):
        monkeypatch.setattr(process_main, name, lambda *_, **__: None)
    monkeypatch.setattr(process_main, "core_count", lambda: 8)
    monkeypatch.setattr("cass_server.rpc.server.core_count", lambda: 8)
    monkeypatch.setattr(process_main, "devices_of", lambda _: devices)
    monkeypatch.setattr(process_main, "_supervise", lambda *args: seen.extend(args) or 0)
    monkeypatch.setattr(process_main, "exit_process", end)
    with pytest.raises(Exit):
        process_main.run(settings)
    used, number, device = seen
    assert (number, device) == (workers, ",".join(devices))
    # What a worker is started with: it shares the cores with so many.
    assert used.workers == workers
    assert compute_threads(used) == 8 // workers + 1


@pytest.mark.parametrize(("index", "device"), [(0, "cuda:0"), (2, "cuda:2"), (4, "cuda:1")])
def test_workers_have_the_gpus_in_turn(
    monkeypatch: pytest.MonkeyPatch, index: int, device: str
) -> None:
    made: list[Any] = []
    channel = SimpleNamespace(index=index, ready=None, wait_lost=None)
    given = Settings(workers=5, launch_timeout_seconds=7), 50051, Metrics()
    monkeypatch.setattr(worker.WorkerChannel, "from_environment", lambda: channel)
    monkeypatch.setattr(worker, "worker_arguments", lambda: given)
    for name in ("keep_memory", "set_up_logging", "count_dropped"):
        monkeypatch.setattr(worker, name, lambda *_, **__: None)
    monkeypatch.setattr(worker, "devices_of", lambda _: GPUS)
    monkeypatch.setattr(worker, "make_engine", lambda *args: made.extend(args))
    monkeypatch.setattr(worker, "serve_in_process", lambda *_, **__: 0)
    monkeypatch.setattr(worker, "exit_process", end)
    with pytest.raises(Exit):
        worker.main()
    assert made == [device, 7]
