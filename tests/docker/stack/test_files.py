"""What can be said of the stack's files without starting it: services, alerts, samples' names."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import generate_latest

from cass_server.config.limits import Limits
from cass_server.config.settings import PREFIX, Settings
from cass_server.observability.metrics import Metrics
from cass_server.observability.prometheus import WorkerMetrics
from tests.docker.conftest import ROOT
from tests.docker.stack.compose import COMPOSE, content
from tests.docker.stack.programs import promtool

PROMETHEUS = ROOT / "docker" / "prometheus"
ALERTS = yaml.safe_load((PROMETHEUS / "alerts.yml").read_text(encoding="utf-8"))
RULES = [rule for group in ALERTS["groups"] for rule in group["rules"]]


SERVICES: dict[str, dict[str, Any]] = content()["services"]


def test_the_file_is_what_the_specification_allows() -> None:
    spec = pytest.importorskip("compose_spec", reason="needs compose-spec (pip install it)")
    stack = content()
    assert set(spec.PyCompose.from_json(json.dumps(stack)).service_names()) == set(SERVICES)
    stack["services"]["server"]["sclae"] = 2
    with pytest.raises(ValueError, match="sclae"):
        spec.PyCompose.from_json(json.dumps(stack))


@pytest.mark.parametrize("name", SERVICES)
def test_no_service_may_more_than_it_needs(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges"]
    assert service.get("cap_add", []) == (["CHOWN"] if name == "certificates" else [])
    # A server has a thread for each stream, and for what else waits.
    assert service["pids_limit"] > (Limits().streams + 600 if name.startswith("server") else 0)
    assert service["logging"]["options"]["max-size"]
    if name != "certificates":  # which ends
        assert service["restart"] == "unless-stopped"
        assert service["mem_limit"]


def test_what_is_published_is_reached_from_this_machine_alone() -> None:
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert published == {
        "proxy": ["127.0.0.1:50051:50051"],
        "proxy-tls": ["127.0.0.1:50051:50051"],
        "prometheus": ["127.0.0.1:9090:9090"],
        "prometheus-tls": ["127.0.0.1:9090:9090"],
        "grafana": ["127.0.0.1:3000:3000"],
    }


@pytest.mark.parametrize(
    ("profile", "started"),
    [
        ("cpu", {"server", "proxy", "prometheus"}),
        ("gpu", {"server-gpu", "proxy", "prometheus"}),
        ("tls", {"server-tls", "proxy-tls", "prometheus-tls", "certificates"}),
    ],
)
def test_what_a_profile_starts(profile: str, started: set[str]) -> None:
    enabled = {n for n, s in SERVICES.items() if profile in s.get("profiles", [profile])}
    assert enabled == started | {"grafana"}


def test_what_is_started_unless_told_otherwise() -> None:
    assert "COMPOSE_PROFILES=cpu\n" in COMPOSE.with_name(".env").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["server", "server-gpu", "server-tls"])
def test_servers_have_settings_that_exist_and_time_to_drain(name: str) -> None:
    service = SERVICES[name]
    given = {k.removeprefix(PREFIX).lower(): v for k, v in service["environment"].items()}
    # Names that do not exist are refused; files are those of the containers.
    drain = Settings(**{"host": "0.0.0.0", **given}).drain_seconds
    assert float(service["stop_grace_period"].removesuffix("s")) >= drain + 5
    limits = Settings.model_fields["max_queue_bytes"].default
    unit = {"m": 1 << 20, "g": 1 << 30}[service["mem_limit"][-1]]
    assert int(service["mem_limit"][:-1]) * unit >= 2 * limits + (512 << 20)


@pytest.mark.parametrize("name", ["proxy", "prometheus", "grafana"])
def test_images_of_others_have_a_version(name: str) -> None:
    assert re.fullmatch(r"docker\.io/[a-z/]+:v?\d+\.\d+\.\d+", SERVICES[name]["image"])


def test_the_gpu_is_reserved() -> None:
    reserved = SERVICES["server-gpu"]["deploy"]["resources"]["reservations"]["devices"]
    assert reserved == [{"driver": "nvidia", "count": 1, "capabilities": ["gpu"]}]
    assert SERVICES["server-gpu"]["build"]["target"] == "cuda"


def test_prometheus_takes_its_configuration() -> None:
    promtool("check", "config", str(PROMETHEUS / "prometheus.yml"))
    promtool("check", "config", "--syntax-only", str(PROMETHEUS / "prometheus-tls.yml"))


def test_the_profile_tls_asks_for_the_same_metrics() -> None:
    """But for TLS, with the files that are mounted."""
    plain, secured = (
        yaml.safe_load((PROMETHEUS / f"{name}.yml").read_text(encoding="utf-8"))
        for name in ("prometheus", "prometheus-tls")
    )
    files = {"ca_file": "/tls/ca.crt", "cert_file": "/tls/tls.crt", "key_file": "/tls/tls.key"}
    for job, name in zip(secured["scrape_configs"], ("server", "proxy"), strict=True):
        assert job.pop("scheme") == "https"
        assert job.pop("tls_config") == {**files, "server_name": name}
    assert plain == secured
    assert "prometheus-tls:/tls:ro" in SERVICES["prometheus-tls"]["volumes"]
    assert SERVICES["server-tls"]["environment"]["CASS_METRICS_TLS"] == "true"


def test_alerts_fire_when_they_should() -> None:
    tests = Path(__file__).with_name("alerts.yml")
    promtool("test", "rules", str(tests))
    # None goes untested.
    assert set(re.findall(r'alertname="(\w+)"', tests.read_text(encoding="utf-8"))) == {
        r["alert"] for r in RULES
    }


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_an_alert_says_what_is_wrong_and_what_to_do(rule: dict[str, Any]) -> None:
    assert rule["labels"]["severity"] in ("critical", "warning")
    assert rule["annotations"]["summary"].endswith(".")
    assert len(rule["annotations"]["description"]) > 80


def test_alerts_are_about_metrics_of_the_server() -> None:
    metrics = Metrics()
    metrics.certificate_expires("tls_certificate", 1.0)  # which is shown where there is one
    exposed = generate_latest(WorkerMetrics([metrics], "1", "cpu")).decode()
    names = set(re.findall(r"\bcass_\w+", " ".join(rule["expr"] for rule in RULES)))
    assert names
    assert names <= set(re.findall(r"^cass_\w+", exposed, re.MULTILINE))
