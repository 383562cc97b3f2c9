from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2_grpc
from grpc_health.v1.health import HealthServicer

from cass_core.errors import CassError
from cass_server.config.address import listening_sockets, reserve_port
from cass_server.process.supervisor import Backoff, Supervisor
from cass_server.process.worker_channel import WorkerChannel
from tests.server.support.processes import LIMIT, health
from tests.support.servers import ServerProcess, server_process

pytestmark = pytest.mark.slow

_PROGRAM = Path(__file__).parents[1] / "support" / "programs" / "supervised.py"


def _supervisor(folder: Path, *words: str) -> AbstractContextManager[ServerProcess]:
    """Two workers that may not be ready yet; names of files in the folder, and options."""
    options = list(words)
    while options and not options[0].startswith("-"):
        (folder / options.pop(0)).touch()
    return server_process(*options, program=(str(_PROGRAM), str(folder)))


def _exits(folder: Path) -> list[str]:
    """Indices of the workers that have ended."""
    return sorted((folder / "exits").read_text().split())


def _serving_pids(server: ServerProcess, workers: int = 2) -> dict[int, int]:
    """Process ids by the workers' indices, once all serve."""
    ready = [server.wait_for("worker ready") for _ in range(workers)]
    server.wait_until_serving()
    return {record["worker"]: record["pid"] for record in ready}


def _answer(server: ServerProcess) -> tuple[int, int]:
    """Index and process id of the worker that takes a new connection."""
    host, port = server.address.rsplit(":", 1)
    with socket.create_connection((host, int(port)), timeout=LIMIT) as connection:
        index, pid = json.loads(connection.makefile().read())
    return index, pid


def _answers(server: ServerProcess, connections: int = 32) -> dict[int, int]:
    """The workers that answer: the kernel spreads the connections over those that listen."""
    return dict(_answer(server) for _ in range(connections))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_one_signal_stops_all_workers_once(tmp_path: Path, number: signal.Signals) -> None:
    with _supervisor(tmp_path) as server:
        pids = _serving_pids(server)
        # A terminal's Ctrl-C goes to the supervisor's group.
        assert all(os.getpgid(pid) == pid for pid in pids.values())
        assert server.stop(number) == 0
        got = [(r["worker"], r["signal"]) for r in server.records("worker got signal")]
        assert sorted(got) == [(0, "SIGTERM"), (1, "SIGTERM")]
        assert server.records("killing worker") == []
        assert _exits(tmp_path) == ["0", "1"]


def test_workers_that_end_are_replaced_later_and_later_in_a_crash_loop(tmp_path: Path) -> None:
    """Beside another, which serves on the same port."""
    with _supervisor(tmp_path) as server:
        pids = _serving_pids(server)
        assert _answers(server) == pids
        (tmp_path / "exit-0").write_text("7")
        os.kill(pids[0], signal.SIGTERM)
        died = [server.wait_for("worker died") for _ in range(3)]
        assert _answers(server) == {1: pids[1]}
        assert died[0]["pid"] == pids[0]
        assert [record["exit_code"] for record in died] == [0, 7, 7]
        # From 0.04 s, doubled, each shortened by up to half.
        for record, wait in zip(died, (0.04, 0.08, 0.16), strict=True):
            assert record["worker"] == 0
            assert wait / 2 <= record["restart_in_seconds"] <= wait
        (tmp_path / "exit-0").unlink()
        pids[0] = server.wait_for("worker ready")["pid"]
        assert _answers(server) == pids
        assert set(_exits(tmp_path)) == {"0"}
        assert server.stop() == 0
        assert len(server.records("serving")) == 1


def test_a_stop_during_the_back_off(tmp_path: Path) -> None:
    with _supervisor(tmp_path, "--backoff-seconds", "3600") as server:
        os.kill(_serving_pids(server)[0], signal.SIGKILL)
        server.wait_for("worker died")
        assert server.stop() == 0
    # None was started in its place.
    assert _exits(tmp_path) == ["0", "1"]


def test_a_worker_that_cannot_be_started_again_backs_off(tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    program.chmod(0o700)
    with _supervisor(tmp_path, "--worker-program", str(program)) as server:
        pids = _serving_pids(server)
        away = program.rename(tmp_path / "away")
        os.kill(pids[0], signal.SIGKILL)
        assert server.wait_for("worker died")["signal"] == "SIGKILL"
        for _ in range(2):
            assert "No such file" in server.wait_for("worker died")["reason"]
        away.rename(program)
        assert server.wait_for("worker ready")["worker"] == 0
        assert server.stop() == 0


@pytest.mark.parametrize(("code", "passed_on"), [(3, 3), (0, 1)])
def test_a_worker_that_ends_before_it_serves_ends_all(
    tmp_path: Path, code: int, passed_on: int
) -> None:
    (tmp_path / "exit-1").write_text(str(code))
    with _supervisor(tmp_path) as server:
        assert server.process.wait(LIMIT) == passed_on
        failed = server.wait_for("worker failed to start")
        assert (failed["worker"], failed["exit_code"]) == (1, code)
        assert _exits(tmp_path) == ["0", "1"]
        assert not server.records("serving")


def test_a_worker_killed_before_it_serves_ends_all(tmp_path: Path) -> None:
    with _supervisor(tmp_path, "hang-1") as server:
        os.kill(server.wait_for("worker hangs")["pid"], signal.SIGKILL)
        assert server.process.wait(LIMIT) == 1
        assert server.wait_for("worker failed to start")["signal"] == "SIGKILL"


def test_a_worker_that_starts_is_stopped_too(tmp_path: Path) -> None:
    with _supervisor(tmp_path, "hang-1") as server:
        server.wait_for("worker hangs")
        assert server.stop() == 0
        assert _exits(tmp_path) == ["0", "1"]


def test_a_worker_that_outlives_its_drain_is_killed(tmp_path: Path) -> None:
    options = ("--workers", "1", "--stop-seconds", "0.5")
    with _supervisor(tmp_path, "stubborn-0", *options) as server:
        pids = _serving_pids(server, workers=1)
        assert server.stop() == 1
        assert [(r["worker"], r["pid"]) for r in server.records("killing worker")] == [(0, pids[0])]
        assert _exits(tmp_path) == ["0"]


def test_a_second_signal_kills_at_once(tmp_path: Path) -> None:
    with _supervisor(tmp_path, "stubborn-0", "stubborn-1") as server:
        _serving_pids(server)
        server.process.send_signal(signal.SIGINT)
        for _ in range(2):
            server.wait_for("worker got signal")
        assert server.process.poll() is None
        assert server.stop() == 1
        assert len(server.records("worker got signal")) == 2
        assert [r["worker"] for r in server.records("killing worker")] == [0, 1]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_second_hang_up_is_of_the_same_terminal(number: signal.Signals) -> None:
    """A shell sends one to its jobs, and the kernel another."""
    callbacks: Any = {"on_ready": lambda: None, "on_exit": lambda _: None}
    supervisor = Supervisor(["true"], 1, {}, drain_seconds=0.0, **callbacks)
    supervisor._stopping.set()
    with subprocess.Popen(["sleep", "60"]) as worker:
        supervisor._running[0] = worker
        supervisor._on_signal(number)
        is_killed = number != signal.SIGHUP
        if not is_killed:
            worker.terminate()
        assert worker.wait(LIMIT) == (-signal.SIGKILL if is_killed else -signal.SIGTERM)


def test_a_command_that_cannot_be_run() -> None:
    before = signal.getsignal(signal.SIGTERM)
    callbacks: Any = {"on_ready": lambda: None, "on_exit": lambda _: None}
    supervisor = Supervisor(["/no/such/program"], 2, {}, drain_seconds=0.0, **callbacks)
    with pytest.raises(CassError, match=r"cannot start a worker: .*No such file"):
        supervisor.run()
    assert signal.getsignal(signal.SIGTERM) is before


def test_backoff_doubles_to_its_limit_and_begins_anew() -> None:
    backoff = Backoff(0.1, 30.0, 60.0, uniform=lambda: 0.0)
    waits = [backoff.after(0.0) for _ in range(11)]
    expected = [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 30.0, 30.0]
    assert waits == pytest.approx(expected)
    assert backoff.after(59.9) == 30.0
    assert backoff.after(60.0) == 0.1
    assert backoff.after(1.0) == 0.2


def test_backoff_is_shortened_at_random() -> None:
    backoff = Backoff(0.1, 30.0, 60.0, uniform=iter([0.5, 0.0, 0.9]).__next__)
    assert [backoff.after(0.0) for _ in range(3)] == pytest.approx([0.075, 0.2, 0.22])


@pytest.mark.parametrize("unread", [False, True])
def test_a_worker_sees_the_end_of_its_supervisor(unread: bool) -> None:
    supervisor, end = socket.socketpair()
    channel = WorkerChannel(end, 0)
    with ThreadPoolExecutor(1) as thread, supervisor, end:
        lost = thread.submit(channel.wait_lost)
        channel.ready()
        if not unread:
            assert supervisor.recv(8) == b"R"
        with pytest.raises(TimeoutError):
            lost.result(0.05)
        supervisor.close()
        lost.result(LIMIT)
        channel.ready()  # nobody hears it, which is no error


def test_no_channel_without_a_supervisor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CASS_WORKER_CHANNEL", raising=False)
    assert WorkerChannel.from_environment() is None


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost", "0.0.0.0", "::"])
@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="needs IPv6")
def test_grpc_servers_share_a_reserved_port(host: str) -> None:
    held, port = reserve_port(host, 0)
    ip, shown = ("::1", f"[{host}]") if ":" in host else ("127.0.0.1", host)
    with held, contextlib.ExitStack() as stack:
        # Nobody listens yet: what holds the port takes no connections.
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((ip, port), timeout=LIMIT)
        for _ in range(2):
            server = grpc.server(ThreadPoolExecutor(1), options=[("grpc.so_reuseport", 1)])
            health_pb2_grpc.add_HealthServicer_to_server(HealthServicer(), server)
            assert server.add_insecure_port(f"{shown}:{port}") == port
            server.start()
            stack.callback(lambda server=server: server.stop(0).wait(LIMIT))
        target = f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}"
        assert {health(target) for _ in range(16)} == {"SERVING"}


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="needs IPv6")
def test_a_port_on_which_somebody_listens(host: str, shared: bool) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0), family=family, reuse_port=shared) as listener:
        port = listener.getsockname()[1]
        shown = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        with pytest.raises(CassError) as refused:
            reserve_port(host, port)
        assert str(refused.value) == f"cannot listen on {shown}: Address already in use"
        # Among all addresses there is the one that is taken.
        every = "::" if ":" in host else "0.0.0.0"
        with pytest.raises(CassError, match=f":{port}: Address already in use"):
            reserve_port(every, port)


def test_a_port_on_which_somebody_listens_at_the_last_moment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """SO_REUSEADDR lets two bind to it, of whom the first to listen has it."""
    made: list[socket.socket] = []
    listen = socket.socket.listen

    def late(self: socket.socket, backlog: int) -> None:
        made.append(self)
        with socket.socket() as first:
            first.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            first.bind(self.getsockname())
            listen(first)
            listen(self, backlog)

    monkeypatch.setattr(socket.socket, "listen", late)
    with pytest.raises(CassError, match=r"^cannot listen on 127.0.0.1:0: Address already in use$"):
        listening_sockets("127.0.0.1", 0, shared=False)
    (own,) = made
    assert own.fileno() == -1


def test_a_port_that_another_supervisor_holds() -> None:
    held, port = reserve_port("127.0.0.1", 0)
    with held, pytest.raises(CassError, match="Address already in use"):
        reserve_port("127.0.0.1", port)
    again, same = reserve_port("127.0.0.1", port)
    with again:
        assert same == port


@pytest.mark.parametrize("shared", [False, True])
def test_a_port_whose_last_server_left_connections_in_time_wait(shared: bool) -> None:
    with socket.create_server(("127.0.0.1", 0), reuse_port=shared) as listener:
        port = listener.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port), timeout=LIMIT) as client:
            listener.accept()[0].close()
            assert client.recv(1) == b""
    with pytest.raises(OSError, match="in use"), socket.socket() as plain:
        plain.bind(("127.0.0.1", port))
    held, same = reserve_port("127.0.0.1", port)
    with held, socket.create_server(("127.0.0.1", port), reuse_port=True):
        assert same == port


@pytest.mark.parametrize(
    ("host", "reason"),
    [("192.0.2.1", "Cannot assign requested address"), ("no.such.host.invalid", "not known")],
)
def test_an_address_that_this_machine_does_not_have(host: str, reason: str) -> None:
    with pytest.raises(CassError, match=f"cannot listen on {host}:50051: .*{reason}"):
        reserve_port(host, 50051)
