"""What docs/ray.md shows, on a cluster of `ray start --head` with a token of its own."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.pages import commands, page, programs
from tests.server.support.processes import free_port

pytest.importorskip("ray.serve", reason="needs cass[ray]")

pytestmark = pytest.mark.timeout(300)

PAGE = page("docs/ray.md")
_LIMIT = 200.0
# Four replicas with a CPU each; Ray believes the number of GPUs. Ports that Ray chooses.
_START = "--head --block --num-cpus 4 --num-gpus 1 --include-dashboard=false --port 0"
_START += " --min-worker-port 0 --max-worker-port 0 --object-store-memory 80000000"


@pytest.fixture(scope="module")
def cluster() -> Iterator[tuple[str, dict[str, str]]]:
    """The cluster's address, and the environment of a shell on its machine."""
    with tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True) as folder:
        env = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        env |= {"HOME": folder, "RAY_TMPDIR": folder, "RAY_USAGE_STATS_ENABLED": "0"}
        # Where an earlier `ray.init` has left it, a cluster requires it.
        Path(folder, ".ray").mkdir()
        Path(folder, ".ray", "auth_token").write_text(secrets.token_hex(32), encoding="ascii")
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", *_START.split()]
        for kind in ("ray-client-server", "dashboard-agent-listen"):
            command += [f"--{kind}-port", str(free_port())]
        with subprocess.Popen(
            command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as process:
            assert process.stdout is not None
            try:
                told = ""
                while "ray stop" not in told:
                    line = process.stdout.readline()
                    assert line, told
                    told += line
                (address,) = re.findall(r"ray start --address='([^']+)'", told)
                yield address, env
            finally:
                process.terminate()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(_LIMIT)
                process.kill()


def run(env: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    """`cass-server` in that environment alone."""
    command = [sys.executable, "-m", "cass_server", *arguments]
    return subprocess.run(
        command, env=env, capture_output=True, text=True, timeout=_LIMIT, check=False
    )


def test_the_page_works_as_it_stands(cluster: tuple[str, dict[str, str]]) -> None:
    _, env = cluster
    start, stop = (c[1:] for c in commands(PAGE) if c[0] == "cass-server")
    assert "--stop" in stop
    started = run(env, *start)
    assert started.returncode == 0, started.stderr
    assert len(started.stdout.split()) == 4
    (program,) = programs(PAGE)
    shown = (
        "import ray\nfrom cass_client import CassClient\nray.init('auto', log_to_driver=False)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", f"{shown}{program}print(client.info().device)"],
        env=env, capture_output=True, text=True, timeout=_LIMIT, check=False,
    )  # fmt: skip
    assert done.stdout == "cpu\n", done.stderr
    stopped = run(env, *stop)
    assert stopped.returncode == 0, stopped.stderr


def test_a_cluster_elsewhere_needs_its_token(cluster: tuple[str, dict[str, str]]) -> None:
    """For an address, Ray sends none by itself; its own warnings do not hide ours."""
    address, env = cluster
    options = ("ray", "--address", address, "--name", "nobody", "--stop")
    refused = run(env, *options)
    assert refused.returncode == 1
    assert refused.stderr == (
        f"cass-server: --address {address}: the cluster requires Ray's token: set"
        " RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH where the cluster's token"
        " is not in ~/.ray/auth_token\n"
    )
    told = run(env | {"RAY_AUTH_MODE": "token"}, *options)
    assert told.stderr == "cass-server: no service nobody on this cluster\n"


def test_without_tls_a_reachable_address_is_refused(cluster: tuple[str, dict[str, str]]) -> None:
    """Why the page's command has --insecure."""
    _, env = cluster
    (start,) = (c[1:] for c in commands(PAGE) if c[:2] == ["cass-server", "ray"] and len(c) > 3)
    done = run(env, *(option for option in start if option != "--insecure"))
    assert done.returncode == 1
    assert "can be reached from other machines: set tls_certificate and tls_key" in done.stderr
