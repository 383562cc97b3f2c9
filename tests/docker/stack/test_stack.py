"""The whole stack in containers, but for Grafana: calls, failures, samples and certificates."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cass_client import CassClient, Tls, Unavailable
from tests.docker.asking import is_right
from tests.docker.engine import Engine
from tests.docker.stack.compose import Stack, content, stack
from tests.docker.stack.dashboard import expressions, panels
from tests.docker.stack.images import provide
from tests.e2e.pages import command_lines, page
from tests.support.callers import calling

pytestmark = pytest.mark.timeout(300, func_only=True)  # images may have to be built first

LINES, OPERATIONS = (
    command_lines(page(f"docs/{name}.md")) for name in ("deployment", "operations")
)
NEVER_HERE = {"Requests in a batch", "Certificates end in"}  # on a CPU, without TLS
"""Panels without data."""


@pytest.fixture(scope="module")
def images(engine: Engine, server_image: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Those that the services name."""
    services = content()["services"]
    engine("tag", server_image, services["server"]["image"])
    for service in ("proxy", "prometheus"):
        provide(engine, services[service]["image"], tmp_path_factory.mktemp(service))


@pytest.fixture
def plain(engine: Engine, images: None) -> Iterator[Stack]:
    """Two servers behind the proxy, and Prometheus."""
    with stack(engine, "cpu") as running:
        running("up", "--detach", "server", "proxy", "prometheus")
        active = 'haproxy_backend_active_servers{proxy="servers"} == 2'
        running.wait_until(lambda: running.number(active) == 2, active)
        # The proxy takes a server that it has just found for one that serves.
        serving = 'haproxy_backend_agg_server_check_status{proxy="servers",state="UP"} == 2'
        running.wait_until(lambda: bool(running.query(serving)), serving)
        running.wait_until(lambda: running.number("sum(up)") == 3, "all are asked")
        yield running


def test_calls_from_outside_and_samples_of_both_servers(plain: Stack) -> None:
    with CassClient(plain.address) as client:
        assert is_right(client)
    with calling(plain.address) as callers:
        plain.wait_until(callers.more(), "answers")
        by_server = 'sum by (instance) (cass_requests_total{method="GenerateMask",code="OK"}) > 0'
        plain.wait_until(lambda: len(plain.query(by_server)) == 2, by_server)
        for panel in panels():
            for expression in expressions(panel, window="30s"):
                if panel["title"] not in NEVER_HERE:
                    plain.wait_until(lambda e=expression: bool(plain.query(e)), expression)
    # One for `is_right`.
    total = f"sum({by_server.removesuffix(' > 0')})"
    plain.wait_until(lambda: plain.number(total) == callers.answered() + 1, total)
    assert plain.query('ALERTS{alertstate="firing"}') == []


def test_no_call_fails_when_a_server_is_stopped(plain: Stack, engine: Engine) -> None:
    first, _ = plain.containers("server")
    with calling(plain.address) as callers:
        plain.wait_until(callers.more(), "answers")
        engine("stop", "--time", "40", first.id)
        plain.wait_until(callers.more(), "answers of the other server")
    assert first.state()["ExitCode"] == 0


def test_first_looks_of_the_page(plain: Stack, tmp_path: Path) -> None:
    first, _ = plain.containers("server")
    compose = "docker compose -f docker/compose.yaml"
    shell = plain.shell(tmp_path, {"stack ": f"{compose} ", "cass-server-1 ": f"{first.id} "})
    told = {line: shell(line) for line in OPERATIONS if not line.startswith("cass ")}
    assert len(told) == 4
    assert "server" in told["stack ps"]
    assert '"event": "serving"' in told["stack logs --since 10m server"]
    assert any(text == "SERVING\n" for text in told.values())
    assert any("CASS_INSECURE" in text for text in told.values())


def test_upgrade_by_the_page(plain: Stack, tmp_path: Path) -> None:
    """No call fails."""
    mine = f"--filter label=com.docker.compose.project={plain.project}"
    shell = plain.shell(tmp_path, {"docker ps -q": f"docker ps -q --no-trunc {mine}"})
    start = next(i for i, line in enumerate(LINES) if line.startswith("old="))
    listed, scaled, _, stopped = LINES[start : start + 4]
    before = {server.id for server in plain.containers("server")}
    with calling(plain.address) as callers:
        plain.wait_until(callers.more(), "answers")
        old = shell(f'{listed}; {scaled} >&2; echo "old:" $old').rpartition("old:")[2].split()
        assert set(old) == before
        serving = 'haproxy_backend_agg_server_check_status{proxy="servers",state="UP"} == 4'
        plain.wait_until(lambda: bool(plain.query(serving)), serving)
        shell(f"old='{' '.join(old)}'; {stopped}")
        plain.wait_until(callers.more(), "answers of the new servers")
    assert not before & {server.id for server in plain.containers("server")}


def test_mutual_tls_with_the_certificates_that_are_made(
    engine: Engine, images: None, tmp_path: Path
) -> None:
    with stack(engine, "tls") as running:
        # Apart, since podman-compose waits long for the end of what others depend on.
        running("up", "certificates")
        running("up", "--detach", "--no-deps", "server-tls", "proxy-tls", "prometheus-tls")
        shell = running.shell(tmp_path, {"localhost:50051": running.address})
        start = LINES.index("mkdir client-tls")
        shell(LINES[start])
        shell(LINES[start + 1])
        files = tmp_path / "client-tls"
        mine = Tls(files / "ca.crt", files / "tls.crt", files / "tls.key")

        def answers() -> bool:
            try:
                with CassClient(running.address, tls=mine) as client:
                    return is_right(client)
            except Unavailable:
                return False

        running.wait_until(answers, "an answer")
        assert running.address in shell(LINES[start + 2])
        with calling(running.address, tls=mine) as callers:
            running.wait_until(callers.more(), "answers")
        for stranger in (Tls(files / "ca.crt"), None):
            with (
                CassClient(running.address, tls=stranger) as client,
                pytest.raises(Unavailable),
            ):
                client.info()
        running.wait_until(lambda: running.number("sum(up)") == 3, "all are asked")
        # It shows its own certificate.
        for server in running.containers("server-tls"):
            assert server.is_healthy()
