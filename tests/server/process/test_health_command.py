"""`cass-server health`: addresses, proxies, and what it says of TLS options that do not fit."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.server.support.certificates import Authority, put
from tests.server.support.processes import cass_server
from tests.support.programs import ended
from tests.support.servers import serving

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    "address",
    [
        "localhost",
        "http://localhost:50051",
        "::1:50051",
        "localhost:0",
        "localhost:99999",
        "a b:1",
        "",
    ],
)
def test_what_is_no_address(address: str) -> None:
    done = cass_server("health", "--address", address)
    assert (done.returncode, done.stdout) == (2, "")
    form = "HOST:PORT (as in localhost:50051 or [::1]:50051) or unix:PATH"
    assert done.stderr == f"cass-server: --address: must be {form}, got {address!r}\n"


def test_no_proxy_is_asked_for_this_machine(address: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as proxy:  # takes connections and says nothing
        url = f"http://127.0.0.1:{proxy.getsockname()[1]}"
        env = {"http_proxy": url, "grpc_proxy": url, "https_proxy": url, "no_proxy": ""}
        done = ended("-m", "cass_server", "health", "--address", address, env=env)
    assert (done.returncode, done.stderr) == (0, "")


def test_tls_to_plain_text(address: str, tmp_path: Path) -> None:
    ca = str(put(tmp_path / "ca.pem", Authority().certificate))
    done = cass_server("health", "--address", address, "--tls-ca", ca)
    assert done.returncode == 1
    assert done.stderr.endswith("(the server takes plain text: leave out the TLS options)\n")


def test_tls_options(tmp_path: Path) -> None:
    """Those that fit, and what is said of those that do not."""
    authority = Authority()
    pair = authority.issue("cass.example.org")
    ca = ("--tls-ca", str(put(tmp_path / "ca.pem", authority.certificate)))
    other = ("--tls-ca", str(put(tmp_path / "other.pem", Authority().certificate)))
    certificate = ("--tls-certificate", str(put(tmp_path / "tls.crt", pair.certificate)))
    own = (*certificate, "--tls-key", str(put(tmp_path / "tls.key", pair.key)))
    named = ("--tls-server-name", "cass.example.org")
    with serving(*own, "--tls-client-ca", ca[1]) as server:

        def health(*arguments: str) -> subprocess.CompletedProcess[str]:
            return cass_server("health", "--address", server.address, *arguments)

        done = health(*ca, *named, *own)
        assert (done.returncode, done.stdout) == (0, f"{server.address}: SERVING\n")
        for arguments, advice in (
            ((), "(does it require TLS? --tls-ca)"),
            (other, "(its certificate is not to be trusted, by --tls-ca or its dates)"),
            (ca, "(its certificate is for another name: --tls-server-name)"),
            (
                (*ca, *named),
                "(does it require a client certificate of its authority? --tls-certificate)",
            ),
        ):
            done = health(*arguments)
            assert (done.returncode, done.stdout) == (1, "")
            assert done.stderr.rstrip().endswith(advice)


def test_files_that_hold_something_else(tmp_path: Path) -> None:
    authority = Authority()
    key = put(tmp_path / "tls.key", authority.issue().key)
    done = cass_server("health", "--tls-ca", str(key))
    assert done.stderr == f"cass-server: --tls-ca {key}: holds no PEM certificates\n"
    certificate = put(tmp_path / "tls.crt", authority.issue().certificate)
    done = cass_server("health", "--tls-certificate", str(certificate), "--tls-key", str(key))
    assert done.stderr.startswith(
        f"cass-server: --tls-key {key}: is not the unencrypted PEM key of"
        f" --tls-certificate {certificate} ("
    )


@pytest.mark.parametrize("arguments", [("--version",), ("serve", "--print-config")])
def test_a_full_disk_is_one_line(arguments: tuple[str, ...]) -> None:
    with open("/dev/full", "w") as full:
        program = "import sys; from cass_server.cli import main; main()"
        done = subprocess.run(
            [sys.executable, "-c", program, *arguments],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            check=False,
        )
    assert done.returncode == 1
    assert done.stderr == (
        "cass-server: cannot write to standard output: [Errno 28] No space left on device\n"
    )


def test_commands_are_listed_whole() -> None:
    lines = cass_server("--help").stdout.partition("Commands:\n")[2].splitlines()
    assert [line.split()[0] for line in lines] == ["serve", "ray", "compile-kernels", "health"]
    assert all(line.endswith(".") and not line.endswith("...") for line in lines)


def test_nothing_that_a_terminal_obeys() -> None:
    done = cass_server("health", "--tls-ca", "\x1b]0;title\x07")
    assert done.returncode == 2
    assert done.stderr == (
        "cass-server: '--tls-ca \\x1b]0;title\\x07: cannot be read: No such file or directory'\n"
    )
