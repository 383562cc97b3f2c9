"""What the autoscaler looks at: the adapter's rule, by Prometheus, on what a pod tells."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from cass_server.observability.metrics import Metrics
from tests.docker.stack.programs import promtool
from tests.k8s.manifests import FOLDER, Object, render
from tests.server.support.observed import exposed, value

pytestmark = pytest.mark.timeout(120)

SAMPLES = [
    # Seconds that requests have spent there, every 15 s: two, one and none at a time.
    ('{namespace="cass",pod="cass-a",method="GenerateMask"}', "7+30x8"),
    ('{namespace="cass",pod="cass-a",method="StreamMasks"}', "0+15x8"),
    ('{namespace="cass",pod="cass-b",method="GenerateMask"}', "0+90x8"),
    ('{namespace="other",pod="cass-a",method="GenerateMask"}', "0+900x8"),
    ('{namespace="cass",pod="cass-c",method="GenerateMask"}', "5+0x8"),
]
MEAN = {"cass-a": 3, "cass-b": 6, "cass-c": 0}
"""Of the namespace cass."""


@pytest.fixture(scope="module")
def rule() -> Object:
    (found,) = yaml.safe_load((FOLDER / "prometheus-adapter.yaml").read_text(encoding="utf-8"))[
        "rules"
    ]["custom"]
    return found


@pytest.fixture(scope="module")
def series(rule: Object) -> str:
    """The name of the rule's series."""
    return rule["seriesQuery"].partition("{")[0]


def expression(rule: Object, series: str) -> str:
    """What the adapter asks for all pods of a Deployment."""
    terms = {
        "Series": series,
        "LabelMatchers": 'namespace="cass",pod=~"cass-a|cass-b|cass-c"',
        "GroupBy": "pod",
    }
    return re.sub(r"<<\.(\w+)>>", lambda term: terms[term[1]], rule["metricsQuery"])


def test_the_autoscaler_asks_for_what_the_rule_is_named() -> None:
    (rule,) = yaml.safe_load((FOLDER / "prometheus-adapter.yaml").read_text(encoding="utf-8"))[
        "rules"
    ]["custom"]
    (metric,) = render("cpu").of("HorizontalPodAutoscaler")["spec"]["metrics"]
    assert metric["pods"]["metric"] == {"name": rule["name"]["as"]}
    # Whose values the adapter is asked for, and where.
    overrides = rule["resources"]["overrides"]
    assert overrides == {name: {"resource": name} for name in ("namespace", "pod")}
    assert all(f'{name}!=""' in rule["seriesQuery"] for name in overrides)


def test_prometheus_makes_the_mean_of_it(rule: Object, series: str, tmp_path: Path) -> None:
    expected = [{"labels": f'{{pod="{pod}"}}', "value": mean} for pod, mean in MEAN.items()]
    question = {"expr": expression(rule, series), "eval_time": "2m", "exp_samples": expected}
    given = [{"series": f"{series}{labels}", "values": values} for labels, values in SAMPLES]
    test = {"interval": "15s", "input_series": given, "promql_expr_test": [question]}
    (tmp_path / "test.yml").write_text(yaml.safe_dump({"tests": [test]}))
    promtool("test", "rules", tmp_path / "test.yml")


def test_a_pod_has_the_series(series: str) -> None:
    """Which `tests.server.observability` compares with the requests that a server has answered."""
    assert value(exposed([Metrics()]), series, method="GenerateMask") == 0
