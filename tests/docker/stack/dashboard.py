"""The panels of the dashboard and what they ask Prometheus."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from tests.docker.conftest import ROOT

DASHBOARD = ROOT / "docker" / "grafana" / "dashboards" / "cass.json"


@dataclass(frozen=True)
class Panel:
    """One of them.

    Attributes:
        title: above it.
        content: as Grafana reads it.
    """

    title: str
    content: dict[str, Any]

    def expressions(self, window: str = "1m") -> list[str]:
        """What it asks, with all methods and rates over such a window."""
        return [
            target["expr"].replace("$__rate_interval", window).replace("$method", ".*")
            for target in self.content["targets"]
        ]


def panels() -> list[Panel]:
    """All but the rows' titles, in order."""
    content = json.loads(DASHBOARD.read_text())
    return [Panel(p["title"], p) for p in content["panels"] if p["type"] != "row"]
