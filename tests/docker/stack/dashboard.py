"""The panels of the dashboard and what they ask Prometheus."""

from __future__ import annotations

import json
from typing import Any

from tests.docker.conftest import ROOT

DASHBOARD = ROOT / "docker" / "grafana" / "dashboards" / "cass.json"


def panels() -> list[dict[str, Any]]:
    """All but the rows' titles, in order, as Grafana reads them."""
    content = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    return [panel for panel in content["panels"] if panel["type"] != "row"]


def expressions(panel: dict[str, Any], window: str = "1m") -> list[str]:
    """The panel's queries, with all methods and rates over such a window."""
    return [
        target["expr"].replace("$__rate_interval", window).replace("$method", ".*")
        for target in panel["targets"]
    ]
