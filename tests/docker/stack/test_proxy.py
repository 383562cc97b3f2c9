"""The proxy's configuration, with a real HAProxy before real servers, without containers."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import ssl
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import grpc
import pytest
import yaml

from cass.v1 import cass_pb2 as pb
from cass_client import CassClient, Tls, Unavailable
from tests.docker.conftest import ROOT
from tests.docker.engine import LIMIT
from tests.docker.stack.names import name_server
from tests.docker.stack.programs import program
from tests.docker.stack.proxy import Proxy, Replacement, proxy
from tests.hostile.support.attacks import connections
from tests.server.support.load import is_answer, numbered_request, service_of
from tests.server.support.observed import scrape, value
from tests.server.support.processes import free_port, health, held
from tests.server.support.raw_http2 import Connection, opening
from tests.support.callers import calling
from tests.support.servers import ServerProcess, server_process, serving

pytestmark = [pytest.mark.timeout(120), pytest.mark.slow]

FIRST, SECOND = "127.0.0.2", "127.0.0.3"
"""All servers have the same port, as containers do; so each has an address of its own."""


def at(host: str, port: int) -> tuple[str, ...]:
    return "--host", host, "--port", str(port), "--metrics-port", "0"


def requests(server: ServerProcess) -> float:
    return value(scrape(server), "cass_requests_total", method="GenerateMask", code="OK")


@contextlib.contextmanager
def stack(folder: Path) -> Iterator[tuple[Proxy, ServerProcess, ServerProcess]]:
    """Two servers and the proxy that has found them."""
    port = free_port()
    with (
        serving(*at(FIRST, port)) as first,
        serving(*at(SECOND, port)) as second,
        name_server("server", [FIRST, SECOND]) as names,
        proxy(folder, "plain", Replacement(names.port, port)) as running,
    ):
        running.wait_until(lambda: running.up() == 2)
        yield running, first, second


def test_calls_are_spread_and_none_fails_while_a_server_drains(tmp_path: Path) -> None:
    with stack(tmp_path) as (running, first, second), calling(running.address) as callers:
        running.wait_until(callers.more())
        assert requests(first) > 0
        assert requests(second) > 0
        first.process.send_signal(signal.SIGTERM)
        running.wait_until(lambda: running.up() == 1)
        running.wait_until(callers.more())
        assert first.stop() == 0


def test_no_call_fails_when_a_server_is_killed(tmp_path: Path) -> None:
    with stack(tmp_path) as (running, first, _), calling(running.address) as callers:
        running.wait_until(callers.more())
        first.kill()
        running.wait_until(callers.more())
        running.wait_until(lambda: running.up() == 1)


def test_a_server_that_is_stuck_is_taken_out_until_it_answers(tmp_path: Path) -> None:
    with stack(tmp_path) as (running, first, _):
        first.process.send_signal(signal.SIGSTOP)
        running.wait_until(lambda: running.up() == 1)
        with calling(running.address) as callers:
            running.wait_until(callers.more())
        first.process.send_signal(signal.SIGCONT)
        running.wait_until(lambda: running.up() == 2)


def test_single_calls_have_less_time_than_streams(tmp_path: Path) -> None:
    """A server that says nothing: the proxy ends the call, and leaves the stream."""
    folder = tmp_path / "held"
    folder.mkdir()
    port = free_port()
    quick = ("timeout server 2m", "timeout server 1s")
    with (
        serving(*at(FIRST, port), program=held(folder, "warm")),
        name_server("server", [FIRST]) as names,
        proxy(tmp_path, "plain", Replacement(names.port, port, changes=(quick,))) as running,
        service_of(running.address) as service,
    ):
        running.wait_until(lambda: running.up() == 1)
        stream = service.StreamMasks(iter([pb.StreamMasksRequest(request=numbered_request(3))]))
        running.wait_until((folder / "waiting").exists)
        with pytest.raises(grpc.RpcError) as caught:
            service.GenerateMask(numbered_request(4), timeout=LIMIT)
        # HTTP's 504 is UNAVAILABLE to gRPC.
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        (folder / "go").touch()
        assert is_answer(next(stream).masks, 3)


def test_connections_of_an_address_are_bounded(tmp_path: Path) -> None:
    """By the lines of docs/security.md, here with 4 instead of 256."""
    page = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
    (lines,) = re.findall("```\n(    stick-table.*?)```", page, re.DOTALL)
    port = free_port()
    bounded = ("frontend cass\n", "frontend cass\n" + lines.replace("256", "4"))
    with (
        serving(*at(FIRST, port)),
        name_server("server", [FIRST]) as names,
        proxy(tmp_path, "plain", Replacement(names.port, port, changes=(bounded,))) as running,
    ):
        running.wait_until(lambda: running.up() == 1)
        with connections(running.address, 4) as opened:
            for connection in opened:
                connection.wait_read()
            # It may be reset before or after it is there.
            with contextlib.suppress(OSError), Connection(running.address) as one_more:
                one_more.send(opening())
                assert one_more.read() is None
        with CassClient(running.address) as client:
            assert client.info().device == "cpu"


def test_a_server_that_does_not_serve_yet_is_told_from_one_that_does(tmp_path: Path) -> None:
    folder = tmp_path / "held"
    folder.mkdir()
    port = free_port()
    with (
        server_process(*at(FIRST, port), program=held(folder)),
        name_server("server", [FIRST]) as names,
        contextlib.ExitStack() as proxies,
    ):
        assert health(f"{FIRST}:{port}") == "NOT_SERVING"
        replacement = Replacement(names.port, port)
        running = proxies.enter_context(proxy(tmp_path, "plain", replacement))
        # What it answers is understood, and not waited for any longer.
        running.wait_until(lambda: "did not match content (binary)" in running.log())
        running.wait_until(lambda: running.up() == 0)
        assert "timeout" not in running.log()
        with CassClient(running.address) as client, pytest.raises(Unavailable):
            client.info()
        (folder / "warm").touch()
        running.wait_until(lambda: running.up() == 1)
        with CassClient(running.address) as client:
            assert client.info().device == "cpu"


def test_servers_are_found_by_their_name(tmp_path: Path) -> None:
    port = free_port()
    with (
        serving(*at(FIRST, port)),
        name_server("server", []) as names,
        proxy(tmp_path, "plain", Replacement(names.port, port)) as running,
    ):
        running.wait_until(lambda: running.up() == 0)
        names.addresses = [FIRST]
        running.wait_until(lambda: running.up() == 1)
        with serving(*at(SECOND, port)) as second:
            names.addresses = [FIRST, SECOND]
            running.wait_until(lambda: running.up() == 2)
            with calling(running.address) as callers:
                running.wait_until(callers.more())
            assert requests(second) > 0
        names.addresses = [SECOND]
        running.wait_until(lambda: running.up() == 0)


def test_mutual_tls_on_both_sides(tmp_path: Path) -> None:
    certificates = make_certificates(tmp_path)
    files = certificates / "server"
    port = free_port()
    tls = ("--tls-certificate", str(files / "tls.crt"), "--tls-key", str(files / "tls.key"))
    tls += ("--tls-client-ca", str(files / "ca.crt"))
    mine = certificates / "client"
    known = Tls(mine / "ca.crt", mine / "tls.crt", mine / "tls.key")
    with (
        serving(*at(FIRST, port), *tls, "--metrics-host", FIRST, "--metrics-tls") as first,
        name_server("server", [FIRST]) as names,
        proxy(tmp_path, "tls", Replacement(names.port, port, certificates / "proxy")) as running,
    ):
        running.wait_until(lambda: running.up() == 1)
        with calling(running.address, number=1, tls=known) as callers:
            running.wait_until(callers.more(5))
        for stranger in (Tls(mine / "ca.crt"), None):
            with (
                CassClient(running.address, tls=stranger) as client,
                pytest.raises(Unavailable),
            ):
                client.info()
        metrics = {
            "cass": first.records("metrics")[0]["address"],
            "proxy": running.metrics_address,
        }
        for address in metrics.values():
            with pytest.raises(
                OSError, match=r"certificate required|Remote end closed|reset|EOF occurred"
            ):
                stranger_to(mine / "ca.crt", address)
        with prometheus(tmp_path, certificates / "prometheus", metrics) as ask_prometheus:
            running.wait_until(lambda: ask_prometheus("up") == {"cass": 1, "proxy": 1})
            answered = 'sum by (job) (cass_requests_total{method="GenerateMask",code="OK"})'
            running.wait_until(lambda: ask_prometheus(answered).get("cass", 0) >= 5)


def stranger_to(ca: Path, address: str) -> None:
    """Reads metrics without a certificate."""
    context = ssl.create_default_context(cafile=str(ca))
    context.check_hostname = False
    urllib.request.urlopen(f"https://{address}/metrics", timeout=LIMIT, context=context)


@contextlib.contextmanager
def prometheus(
    folder: Path, files: Path, targets: Mapping[str, str]
) -> Iterator[Callable[[str], dict[str, float]]]:
    """That of the profile tls, for other addresses; a function that asks it, by job."""
    text = (ROOT / "docker" / "prometheus" / "prometheus-tls.yml").read_text(encoding="utf-8")
    config = yaml.safe_load(text.replace("/tls/", f"{files}/"))
    del config["rule_files"]
    for job in config["scrape_configs"]:
        del job["dns_sd_configs"]
        job["static_configs"] = [{"targets": [targets[job["job_name"]]]}]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    address = f"127.0.0.1:{free_port()}"
    command = [program("prometheus"), f"--config.file={folder / 'prometheus.yml'}"]
    command += [f"--storage.tsdb.path={folder / 'tsdb'}", f"--web.listen-address={address}"]

    def ask(expression: str) -> dict[str, float]:
        query = urllib.parse.urlencode({"query": expression})
        url = f"http://{address}/api/v1/query?{query}"
        with urllib.request.urlopen(url, timeout=LIMIT) as answer:
            found = json.load(answer)["data"]["result"]
        return {series["metric"]["job"]: float(series["value"][1]) for series in found}

    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        try:
            yield ask
        finally:
            process.terminate()


def make_certificates(folder: Path) -> Path:
    """What the profile tls makes, for this user."""
    if os.geteuid() != 0:
        pytest.skip("only root can give keys to other users")
    program("openssl")
    made = folder / "certificates"
    for name in ("authority", "server", "proxy", "prometheus", "client"):
        (made / name).mkdir(parents=True)
    script = (ROOT / "docker" / "certificates" / "make.sh").read_text(encoding="utf-8")
    script = script.replace("cd /certificates", f"cd {made}")
    environment = {**os.environ, "CERTIFICATE_NAMES": "DNS:localhost,IP:127.0.0.1"}
    subprocess.run(["sh", "-c", script], env=environment, check=True, timeout=LIMIT)
    return made
