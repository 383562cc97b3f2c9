"""The dashboard's structure; test_stack asks a real Prometheus what its panels ask."""

from __future__ import annotations

import json
import re
from pathlib import Path

import yaml
from prometheus_client import generate_latest

from cass_server.observability.metrics import Metrics
from cass_server.observability.prometheus import WorkerMetrics
from tests.docker.conftest import ROOT
from tests.docker.stack.compose import COMPOSE
from tests.docker.stack.dashboard import DASHBOARD, expressions, panels
from tests.docker.stack.programs import promtool

PROVISIONING = ROOT / "docker" / "grafana" / "provisioning"


def test_grafana_is_told_where_everything_is() -> None:
    grafana = yaml.safe_load(COMPOSE.read_text(encoding="utf-8"))["services"]["grafana"]
    mounted = dict(volume.split(":")[:2] for volume in grafana["volumes"])
    provider = yaml.safe_load(
        (PROVISIONING / "dashboards" / "cass.yml").read_text(encoding="utf-8")
    )
    folder = provider["providers"][0]["options"]["path"]
    assert mounted["./grafana/dashboards"] == folder
    assert mounted["./grafana/provisioning"] == "/etc/grafana/provisioning"
    home = grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert home == f"{folder}/{DASHBOARD.name}"


def test_every_panel_asks_the_data_source_that_is_provided() -> None:
    provided = yaml.safe_load(
        (PROVISIONING / "datasources" / "prometheus.yml").read_text(encoding="utf-8")
    )
    (source,) = provided["datasources"]
    used = {"type": source["type"], "uid": source["uid"]}
    for panel in panels():
        assert panel["datasource"] == used
        assert all(target["datasource"] == used for target in panel["targets"])
        assert panel["description"]


def test_panels_have_names_and_places_of_their_own() -> None:
    content = json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]
    taken: set[tuple[int, int]] = set()
    for panel in content:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert place["x"] + place["w"] <= 24
        assert not cells & taken
        taken |= cells
    assert len({panel["id"] for panel in content}) == len(content)
    assert len({panel["title"] for panel in content}) == len(content)


def test_every_metric_of_the_server_is_shown_and_none_that_it_lacks() -> None:
    exposed = generate_latest(WorkerMetrics([Metrics()], "1", "cpu")).decode()
    families = set(re.findall(r"^# TYPE (cass_\w+)", exposed, re.MULTILINE)) - {"cass_build_info"}
    asked = " ".join(expression for panel in panels() for expression in expressions(panel))
    shown = {re.sub("_(bucket|sum|count)$", "", name) for name in re.findall(r"cass_\w+", asked)}
    assert shown == families


def test_prometheus_understands_what_panels_ask(tmp_path: Path) -> None:
    asked = [expression for panel in panels() for expression in expressions(panel)]
    rules = [{"record": f"panel:{number}", "expr": expr} for number, expr in enumerate(asked)]
    file = tmp_path / "rules.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    promtool("check", "rules", file)
