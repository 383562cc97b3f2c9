"""What `cass-server ray` says of what it cannot do, before there is a cluster."""

from __future__ import annotations

import socket
import textwrap
from pathlib import Path

import pytest

from tests.server.support.processes import cass_server, free_port
from tests.support.programs import ended

pytestmark = [pytest.mark.timeout(90), pytest.mark.slow]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (
            ["--port", "1", "--host", "::1", "--workers", "2", "--metrics-host", "::1"],
            """\
            --host (command line): not on a Ray cluster: a replica listens on its node's address
            --port (command line): not on a Ray cluster: a replica takes a free port
            --workers (command line): not on a Ray cluster: a replica is one process
            --metrics-host (command line): not on a Ray cluster: """
            + "a replica serves metrics on its node's address\n",
        ),
        (["--http-port", "0"], "--http-port (command line): not on a Ray cluster: replicas answer"),
        (["--device", "cuda"], "--device (command line): cuda needs --num-gpus\n"),
        (["--num-gpus", "1.5"], "--num-gpus 1.5: must be a whole number, or below 1\n"),
        (["--num-cpus", "0.00001"], "--num-cpus 1e-05: must be 0, or at least 0.0001\n"),
        (["--max-images", "no"], "--max-images (command line): must be a whole number"),
        (["--min-replicas", "2"], "--min-replicas: needs --max-replicas too\n"),
        (
            ["--min-replicas", "3", "--max-replicas", "2"],
            "--min-replicas 3: must be at most --max-replicas, which is 2\n",
        ),
        (
            ["--replicas", "3", "--max-replicas", "4"],
            "--replicas: cannot be given beside --max-replicas\n",
        ),
        (["--name", "50051"], "--name '50051': must be at most 100 letters"),
    ],
)
def test_refused(arguments: list[str], reason: str) -> None:
    done = cass_server("ray", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    expected = "".join(f"cass-server: {x}" for x in textwrap.dedent(reason).splitlines(True))
    assert done.stderr.startswith(expected)


def test_refused_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CASS_PORT", "50051")
    done = cass_server("ray")
    assert done.returncode == 2
    assert done.stderr == (
        "cass-server: CASS_PORT (environment): not on a Ray cluster: a replica takes a free port\n"
    )


def test_help_lists_what_replicas_have() -> None:
    shown = cass_server("ray", "--help").stdout
    assert "--max-images" in shown
    assert "--num-gpus" in shown
    assert "--workers" not in shown
    assert "--metrics-port" in shown
    assert "--metrics-host" not in shown
    assert "--http-port" not in shown


@pytest.mark.parametrize("from_environment", [False, True])
def test_no_cluster(monkeypatch: pytest.MonkeyPatch, from_environment: bool) -> None:
    pytest.importorskip("ray")
    address = f"127.0.0.1:{free_port()}"
    if from_environment:
        monkeypatch.setenv("RAY_ADDRESS", address)
    done = cass_server("ray", *(() if from_environment else ("--address", address)))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"cass-server: --address {address}: [Errno 111] Connection refused\n"


def test_no_token_of_the_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray")
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "none"))
    with socket.create_server(("127.0.0.1", 0)) as head:
        address = f"127.0.0.1:{head.getsockname()[1]}"
        done = cass_server("ray", "--address", address)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"cass-server: --address {address}: ")
    assert "set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("missing", ["ray", "starlette"])
def test_without_ray(missing: str) -> None:
    program = (
        f"import sys; sys.modules[{missing!r}] = None; from cass_server.cli import main; main()"
    )
    done = ended("-c", program, "ray")
    assert done.returncode == 1
    assert done.stderr.startswith(f"cass-server: needs {missing}")
    assert done.stderr.endswith(", which pip install 'cass[ray]' brings\n")
