"""A server's life as its operator sees it: real processes, signals and probes."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from cass.v1 import cass_pb2_grpc
from tests.server.requests import mask_request
from tests.servers import ServerProcess, server_process, serving

HELD = Path(__file__).with_name("held_server.py")
LIMIT = 60.0


def wait_until(condition: Callable[[], bool], server: ServerProcess) -> None:
    """Poll with a hard limit; fails if the process ends."""
    poll = threading.Event()
    for _ in range(int(LIMIT / 0.02)):
        if condition():
            return
        assert server.process.poll() is None, "".join(server.lines)
        poll.wait(0.02)
    raise AssertionError("".join(server.lines))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def health(address: str, service: str = "") -> str:
    with grpc.insecure_channel(address) as channel:
        request = health_pb2.HealthCheckRequest(service=service)
        answer = health_pb2_grpc.HealthStub(channel).Check(
            request, timeout=LIMIT, wait_for_ready=True
        )
    name: str = health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)
    return name


def run_health(address: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "cass_server", "health", "--address", address, "--timeout", "20"],
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )


def test_health_reflection_and_stop() -> None:
    with serving() as server:
        assert health(server.address) == "SERVING"
        assert health(server.address, "cass.v1.CassService") == "SERVING"
        probe = run_health(server.address)
        assert (probe.returncode, probe.stdout) == (0, f"{server.address}: SERVING\n")
        with grpc.insecure_channel(server.address) as channel:
            stub = reflection_pb2_grpc.ServerReflectionStub(channel)
            asked = reflection_pb2.ServerReflectionRequest
            answers = stub.ServerReflectionInfo(
                iter([asked(list_services=""), asked(file_containing_symbol="cass.v1.MaskSpec")]),
                timeout=LIMIT,
            )
            listed, described = list(answers)
        names = {service.name for service in listed.list_services_response.service}
        assert {"cass.v1.CassService", "grpc.health.v1.Health"} <= names
        (file,) = described.file_descriptor_response.file_descriptor_proto
        assert b"cass/v1/cass.proto" in file
        address = server.address
        assert server.stop() == 0
    records = [json.loads(line) for line in server.lines]
    assert [record["event"] for record in records] == ["serving", "stopped"]
    for record in records:
        assert {"time", "level", "logger"} <= record.keys()
    assert (records[0]["address"], records[0]["device"]) == (address, "cpu")
    assert records[0]["pid"] == server.process.pid


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_drain_answers_what_is_in_flight(number: signal.Signals, tmp_path: Path) -> None:
    (tmp_path / "warm").touch()
    with (
        serving(program=(str(HELD), str(tmp_path), "serve")) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        stub = cass_pb2_grpc.CassServiceStub(channel)
        in_flight = stub.GenerateMask.future(mask_request(), timeout=LIMIT)
        wait_until((tmp_path / "waiting").exists, server)
        server.process.send_signal(number)
        # New requests are refused before the old one is answered.
        wait_until(lambda: refused(server.address), server)
        (tmp_path / "go").touch()
        assert list(in_flight.result(timeout=LIMIT).masks[0].shape) == [1, 4, 4]
        assert server.process.wait(timeout=LIMIT) == 0


def refused(address: str) -> bool:
    """Whether new connections find nobody."""
    host, _, port = address.rpartition(":")
    with socket.socket() as probe:
        return probe.connect_ex((host, int(port))) != 0


def test_drain_has_an_end(tmp_path: Path) -> None:
    (tmp_path / "warm").touch()
    with (
        serving("--drain-seconds", "0.1", program=(str(HELD), str(tmp_path), "serve")) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        stub = cass_pb2_grpc.CassServiceStub(channel)
        in_flight = stub.GenerateMask.future(mask_request(), timeout=LIMIT)
        wait_until((tmp_path / "waiting").exists, server)
        server.process.send_signal(signal.SIGTERM)
        with pytest.raises(grpc.RpcError) as caught:
            in_flight.result(timeout=LIMIT)
        assert caught.value.code() in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}
        # The process goes, though the thread is still at its work.
        assert server.process.wait(timeout=LIMIT) == 0


def test_not_serving_before_it_is_warm(tmp_path: Path) -> None:
    port = free_port()
    with server_process("--port", str(port), program=(str(HELD), str(tmp_path), "serve")) as server:
        address = f"127.0.0.1:{port}"
        assert health(address) == "NOT_SERVING"
        probe = run_health(address)
        assert (probe.returncode, probe.stdout) == (1, f"{address}: NOT_SERVING\n")
        (tmp_path / "warm").touch()
        server.wait_until_serving()
        assert health(address) == "SERVING"


def test_signal_while_warming_up(tmp_path: Path) -> None:
    port = free_port()
    with server_process("--port", str(port), program=(str(HELD), str(tmp_path), "serve")) as server:
        assert health(f"127.0.0.1:{port}") == "NOT_SERVING"
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(timeout=LIMIT) == 0


def test_port_taken() -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        with server_process("--port", str(port)) as server:
            assert server.process.wait(timeout=LIMIT) == 1
    (line,) = server.lines[-1:]
    assert line == f"cass-server: cannot listen on 127.0.0.1:{port}: is the port taken?\n"
    assert "Traceback" not in "".join(server.lines)


def test_nobody_is_there() -> None:
    address = f"127.0.0.1:{free_port()}"
    probe = run_health(address)
    assert (probe.returncode, probe.stdout) == (1, "")
    assert probe.stderr == f"{address}: UNAVAILABLE\n"


def test_a_refused_request_is_one_log_line() -> None:
    request = mask_request()
    request.dtype = 77  # type: ignore[assignment]
    with serving() as server, grpc.insecure_channel(server.address) as channel:
        with pytest.raises(grpc.RpcError):
            cass_pb2_grpc.CassServiceStub(channel).GenerateMask(request, timeout=LIMIT)
        assert server.stop() == 0
    records = [json.loads(line) for line in server.lines]
    assert [record["event"] for record in records] == ["serving", "request refused", "stopped"]
    assert records[1]["method"] == "GenerateMask"
    assert records[1]["code"] == "INVALID_ARGUMENT"
    assert records[1]["reason"].startswith("dtype: must be one of")


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["--help"], 0, "Serve CASS masks and losses over gRPC."),
        (["--version"], 0, "0.1.0"),
        (["serve", "--help"], 0, "--drain-seconds"),
        (["health", "--help"], 0, "--address"),
        (["serve", "--device", "gpu"], 1, "--device must be auto, cpu, cuda or cuda:N, got gpu"),
        (["serve", "--port", "65536"], 2, "Invalid value for '--port'"),
        (["serve", "--port", "x"], 2, "Invalid value for '--port'"),
        (["serve", "--host", "nowhere.invalid", "--port", "0"], 1, "cannot listen on nowhere"),
    ],
)
def test_command_line(arguments: list[str], code: int, text: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "cass_server", *arguments],
        capture_output=True,
        text=True,
        timeout=LIMIT,
        env={**os.environ, "COLUMNS": "200"},
        check=False,
    )
    assert done.returncode == code, done.stderr
    assert text in " ".join((done.stdout + done.stderr).split())
    assert "Traceback" not in done.stderr
