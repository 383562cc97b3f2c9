"""The command `cass-server`: its help, settings, probes, messages and what it logs."""

from __future__ import annotations

import datetime
import tomllib
from pathlib import Path
from typing import Any

import pytest

from cass.v1 import cass_pb2 as pb
from cass_core import __version__
from cass_server.config.reference import settings_table
from tests.server.support.details import fails
from tests.server.support.load import service_of
from tests.server.support.processes import LIMIT, cass_server, free_port, health, held
from tests.server.support.requests import mask_request
from tests.support.programs import ended
from tests.support.servers import ServerProcess, server_process, serving


@pytest.mark.parametrize(
    ("arguments", "texts"),
    [
        (["--help"], ["Serve CASS masks and losses over gRPC.", "serve", "health", "--version"]),
        (["serve", "--help"], ["--config FILE", "--print-config"]),
        (["health", "--help"], ["--address", "--timeout", "--tls-ca", "--tls-server-name"]),
    ],
)
def test_help(arguments: list[str], texts: list[str]) -> None:
    done = cass_server(*arguments)
    assert (done.returncode, done.stderr) == (0, "")
    for text in texts:
        assert text in done.stdout


def test_help_has_every_setting() -> None:
    lines = cass_server("serve", "--help").stdout.splitlines()
    shown = " ".join(word for line in lines for word in line.split())
    for setting in settings_table():
        form = setting.metavar or f"/ {setting.option.replace('--', '--no-')}"
        default = setting.default or "not set"
        assert f" {setting.option} {form} {setting.help} [default: {default}]" in shown
    assert [line for line in lines if line.endswith(":") and line[0] != " "] == [
        "Options:",
        "Server:",
        "HTTP:",
        "Security:",
        "Limits:",
        "Connections:",
        "Observing:",
        "Batching:",
    ]


def test_version() -> None:
    done = cass_server("--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{__version__}\n", "")


@pytest.mark.slow
def test_what_cannot_be_served_is_one_line() -> None:
    done = cass_server("serve", "--device", "cuda:99")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.splitlines()[-1].startswith("cass-server: device cuda:99: torch finds ")
    assert "Traceback" not in done.stderr


def test_printed_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tmp_path / "cass.toml"
    config.write_text("max_images = 1\n")
    monkeypatch.setenv("CASS_DRAIN_SECONDS", "1.5")
    done = cass_server(
        "serve", "--config", str(config), "--port", "0", "--channelz", "--print-config"
    )
    assert (done.returncode, done.stderr) == (0, "")
    for line in (
        "port = 0  # --port (command line)",
        "channelz = true  # --channelz (command line)",
        "drain_seconds = 1.5  # CASS_DRAIN_SECONDS (environment)",
        f"max_images = 1  # max_images ({config})",
        "max_boxes = 262144  # default",
    ):
        assert line in done.stdout.splitlines()
    config.write_text(done.stdout)
    monkeypatch.delenv("CASS_DRAIN_SECONDS")
    again = cass_server("serve", "--config", str(config), "--no-channelz", "--print-config")
    assert "channelz = false  # --channelz (command line)" in again.stdout.splitlines()
    printed = tomllib.loads(done.stdout)
    assert tomllib.loads(again.stdout) == printed | {"channelz": False}


def test_every_wrong_setting_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CASS_PORT", "70000")
    done = cass_server("serve", "--log-level", "loud", "--print-config")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines() == [
        "cass-server: CASS_PORT (environment): must be a whole number from 0 to 65535, got 70000",
        "cass-server: --log-level (command line): must be debug, info, warning or error, got loud",
    ]


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["serve", "--prot", "1"], "--prot"),
        (["health", "--timeout", "0"], "'--timeout'"),
        (["compile-kernels", "--capability", "sm_90"], "must be as in 9.0, got sm_90"),
        (["health", "--tls-key", "k.pem"], "--tls-certificate and --tls-key go together"),
        (["health", "--tls-ca", "/nowhere"], "--tls-ca /nowhere: cannot be read: No such file"),
    ],
)
def test_wrong_usage(arguments: list[str], error: str) -> None:
    done = cass_server(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert error in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("missing", "arguments"),
    [("pydantic_settings", ["--help"]), ("prometheus_client", ["serve", "--port", "0"])],
)
def test_what_is_not_installed_is_one_line(missing: str, arguments: list[str]) -> None:
    """As without the extra: before the command is there, and once it serves."""
    program = (
        f"import sys; sys.modules[{missing!r}] = None; from cass_server.cli import main; main()"
    )
    done = ended("-c", program, *arguments)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        f"cass-server: needs {missing}, which pip install 'cass[server]' brings\n"
    )


def test_health_of_a_server_that_serves(address: str) -> None:
    done = cass_server("health", "--address", address, "--timeout", "20")
    assert (done.returncode, done.stdout) == (0, f"{address}: SERVING\n")


def test_health_where_no_server_is() -> None:
    address = f"127.0.0.1:{free_port()}"
    done = cass_server("health", "--address", address)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"{address}: UNAVAILABLE: failed to connect")


def records(server: ServerProcess) -> list[dict[str, Any]]:
    """What it has logged: every line is an object with the same four keys first."""
    found = server.records()
    for record in found:
        assert list(record)[:4] == ["time", "level", "logger", "event"]
        assert record["logger"].startswith("cass_server")
        assert datetime.datetime.fromisoformat(record["time"]).tzinfo is not None
    return found


def fail_twice(address: str) -> None:
    """A request that is refused and, where there is the file `fail`, one that fails."""
    with service_of(address) as stub:
        with fails("INVALID_ARGUMENT"):
            stub.GenerateMask(pb.GenerateMaskRequest(), timeout=LIMIT)
        with fails("INTERNAL"):
            stub.GenerateMask(mask_request(), timeout=LIMIT)


def test_log(tmp_path: Path) -> None:
    """Two lines at the start, one a failed request, one at the end; none for good ones."""
    with serving(program=held(tmp_path, "warm", "go")) as server:
        with service_of(server.address) as stub:
            stub.GenerateMask(mask_request(), timeout=LIMIT)
        (tmp_path / "fail").touch()
        fail_twice(server.address)
        assert server.stop() == 0
    warming, started, refused, failed, stopped = records(server)
    assert (warming["event"], warming["level"]) == ("warming up", "INFO")
    shown = {
        "level": "INFO",
        "event": "serving",
        "address": server.address,
        "device": "cpu",
        "pid": server.process.pid,
        "version": __version__,
    }
    assert started.items() >= shown.items()
    shown = {
        "level": "WARNING",
        "event": "request refused",
        "method": "GenerateMask",
        "code": "INVALID_ARGUMENT",
        "reason": "feature_map: is missing",
    }
    assert refused.items() >= shown.items()
    shown = {"event": "request failed", "method": "GenerateMask", "code": "INTERNAL"}
    assert failed.items() >= ({"level": "ERROR"} | shown).items()
    assert failed["exc_info"].startswith("Traceback (most recent call last):\n")
    assert failed["exc_info"].endswith("RuntimeError: asked to fail")
    assert (stopped["event"], stopped["level"]) == ("stopped", "INFO")


def test_log_level(tmp_path: Path) -> None:
    port = free_port()
    arguments = ("--port", str(port), "--log-level", "error")
    with server_process(*arguments, program=held(tmp_path, "warm", "fail")) as server:
        assert health(f"127.0.0.1:{port}") in {"NOT_SERVING", "SERVING"}
        fail_twice(f"127.0.0.1:{port}")
        assert server.stop() == 0
    assert [record["event"] for record in records(server)] == ["request failed"]
