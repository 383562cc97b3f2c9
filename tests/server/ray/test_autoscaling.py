"""The load of a worker, how many replicas a load wants, and what an operator may ask for."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cass_core.errors import CassError
from cass_server.config.sources import load_settings
from cass_server.observability.call import Call
from cass_server.observability.metrics import Metrics
from cass_server.ray.autoscaling import replicas_for_load
from cass_server.ray.load import Load
from cass_server.ray.spec import check_name, replica_bounds, settings_of_replicas


def test_load_is_the_mean_in_flight(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    metrics = Metrics()
    monkeypatch.setattr(
        "cass_server.observability.metrics.time", SimpleNamespace(perf_counter=lambda: 500.0)
    )

    def count(method: str, seconds: float) -> None:
        metrics.started()
        metrics.finished(Call(method, (), 500.0 - seconds))

    count("GenerateMask", 50.0)
    load = Load(metrics, clock=lambda: now[0])
    for method, seconds in (("GenerateMask", 3.0), ("StreamMasks", 1.5), ("GetServerInfo", 0.5)):
        count(method, seconds)
    now[0] += 2.0
    assert load.mean() == 2.5
    now[0] += 1.0
    assert load.mean() == 0.0
    assert load.mean() == 0.0


def context(loads: dict[str, dict[str, float]] | None) -> Any:
    config = SimpleNamespace(get_target_ongoing_requests=lambda: 4.0)
    return SimpleNamespace(aggregated_metrics=loads, config=config, target_num_replicas=3)


@pytest.mark.parametrize(
    ("loads", "wanted"),
    [
        ({"in_flight": {"a": 4.0, "b": 8.0}}, 3.0),
        ({"in_flight": {"a": 1.0, "b": 0.0}}, 0.25),
        ({"in_flight": {}}, 3),
        ({}, 3),
        (None, 3),
    ],
)
def test_replicas_for_load(loads: dict[str, dict[str, float]] | None, wanted: float) -> None:
    assert replicas_for_load(context(loads)) == (wanted, {})


def test_bounds() -> None:
    assert replica_bounds(None, None, None) == (1, 1)
    assert replica_bounds(4, None, None) == (4, 4)
    assert replica_bounds(None, None, 4) == (1, 4)
    assert replica_bounds(None, 2, 4) == (2, 4)


def test_settings_are_for_any_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whose processes begin in other folders, and may see GPUs that Ray gave to others."""
    monkeypatch.chdir(tmp_path)
    loaded = load_settings({"token_file": Path("tokens")})
    settings = settings_of_replicas(loaded, 1.0, 0.0)
    assert settings.token_file == tmp_path / "tokens"
    assert settings.tls_certificate is None
    assert settings.device == "cpu"
    assert settings_of_replicas(loaded, 1.0, 0.25).device == "auto"


@pytest.mark.parametrize("name", ["", "-a", "a b", "a/b", "50051", "a" * 101])
def test_names_that_clients_could_not_write(name: str) -> None:
    check_name("a-b_c.9")
    with pytest.raises(CassError, match="--name"):
        check_name(name)
