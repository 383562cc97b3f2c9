"""The command `cass-server`: its help, its probes, its messages and what it logs."""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import Any

import grpc
import pytest

from cass.v1 import cass_pb2 as pb
from cass.v1 import cass_pb2_grpc
from cass_core import __version__
from tests.server.processes import cass_server, free_port, health, held
from tests.server.requests import mask_request
from tests.servers import ServerProcess, server_process, serving


@pytest.mark.parametrize(
    ("arguments", "texts"),
    [
        (["--help"], ["Serve CASS masks and losses over gRPC.", "serve", "health", "--version"]),
        (
            ["serve", "--help"],
            ["--host", "--port", "--device", "--drain-seconds", "--log-level", "127.0.0.1"],
        ),
        (["health", "--help"], ["--address", "--timeout"]),
    ],
)
def test_help(arguments: list[str], texts: list[str]) -> None:
    done = cass_server(*arguments)
    assert (done.returncode, done.stderr) == (0, "")
    for text in texts:
        assert text in done.stdout


def test_version() -> None:
    done = cass_server("--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{__version__}\n", "")


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["--device", "gpu"], "--device must be auto, cpu, cuda or cuda:N, got gpu"),
        (["--device", "cuda:99"], "--device cuda:99: torch finds "),
        (["--host", "nowhere.invalid", "--port", "0"], "cannot listen on nowhere.invalid:0"),
    ],
)
def test_what_cannot_be_served_is_one_line(arguments: list[str], error: str) -> None:
    done = cass_server("serve", *arguments)
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = (line for line in done.stderr.splitlines() if line.startswith("cass-server: "))
    assert line.startswith(f"cass-server: {error}")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "option"),
    [
        (["serve", "--port", "65536"], "--port"),
        (["serve", "--port", "-1"], "--port"),
        (["serve", "--port", "x"], "--port"),
        (["serve", "--drain-seconds", "-1"], "--drain-seconds"),
        (["serve", "--log-level", "loud"], "--log-level"),
        (["health", "--timeout", "0"], "--timeout"),
    ],
)
def test_wrong_usage(arguments: list[str], option: str) -> None:
    done = cass_server(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert f"Invalid value for '{option}'" in done.stderr
    assert "Traceback" not in done.stderr


def test_health_of_a_server_that_serves() -> None:
    with serving() as server:
        done = cass_server("health", "--address", server.address, "--timeout", "20")
        assert (done.returncode, done.stdout) == (0, f"{server.address}: SERVING\n")


def test_health_of_a_server_that_is_not_warm(tmp_path: Path) -> None:
    port = free_port()
    address = f"127.0.0.1:{port}"
    with server_process("--port", str(port), program=held(tmp_path)):
        assert health(address) == "NOT_SERVING"
        done = cass_server("health", "--address", address, "--timeout", "20")
        assert (done.returncode, done.stdout) == (1, f"{address}: NOT_SERVING\n")


def test_health_where_nobody_is() -> None:
    address = f"127.0.0.1:{free_port()}"
    done = cass_server("health", "--address", address)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"{address}: UNAVAILABLE\n"


def records(server: ServerProcess) -> list[dict[str, Any]]:
    """What it has logged: every line is an object with the same four keys first."""
    found: list[dict[str, Any]] = [json.loads(line) for line in server.lines]
    for record in found:
        assert list(record)[:4] == ["time", "level", "logger", "event"]
        assert record["logger"].startswith("cass_server")
        assert datetime.datetime.fromisoformat(record["time"]).tzinfo is not None
    return found


def ask_in_vain(address: str) -> None:
    """A request that is refused and, of a held server told to fail, one that fails."""
    bad = pb.GenerateMaskRequest()
    with grpc.insecure_channel(address) as channel:
        stub = cass_pb2_grpc.CassServiceStub(channel)
        for request in (bad, mask_request()):
            with pytest.raises(grpc.RpcError):
                stub.GenerateMask(request, timeout=60)


def test_log(tmp_path: Path) -> None:
    """One line at the start, one a failed request, one at the end; none for good ones."""
    for name in ("warm", "go"):
        (tmp_path / name).touch()
    with serving(program=held(tmp_path)) as server:
        address = server.address
        with grpc.insecure_channel(address) as channel:
            cass_pb2_grpc.CassServiceStub(channel).GenerateMask(mask_request(), timeout=60)
        (tmp_path / "fail").touch()
        ask_in_vain(address)
        assert server.stop() == 0
    started, refused, failed, stopped = records(server)
    assert (started["event"], started["level"]) == ("serving", "INFO")
    assert (started["address"], started["device"]) == (address, "cpu")
    assert (started["pid"], started["version"]) == (server.process.pid, __version__)
    assert (refused["event"], refused["level"]) == ("request refused", "WARNING")
    assert (refused["method"], refused["code"]) == ("GenerateMask", "INVALID_ARGUMENT")
    assert refused["reason"] == "feature_map: is missing"
    assert (failed["event"], failed["level"]) == ("request failed", "ERROR")
    assert (failed["method"], failed["code"]) == ("GenerateMask", "INTERNAL")
    assert failed["exc_info"].startswith("Traceback (most recent call last):\n")
    assert failed["exc_info"].endswith("RuntimeError: told to fail")
    assert (stopped["event"], stopped["level"]) == ("stopped", "INFO")


def test_log_level(tmp_path: Path) -> None:
    for name in ("warm", "fail"):
        (tmp_path / name).touch()
    port = free_port()
    arguments = ("--port", str(port), "--log-level", "error")
    with server_process(*arguments, program=held(tmp_path)) as server:
        assert health(f"127.0.0.1:{port}") in {"NOT_SERVING", "SERVING"}
        ask_in_vain(f"127.0.0.1:{port}")
        assert server.stop() == 0
    assert [record["event"] for record in records(server)] == ["request failed"]
