"""What the server's log says of certificates that clients will refuse, and of failed handshakes."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from cass_server.security.tls import TlsFiles
from tests.server.support.certificates import Authority, put
from tests.server.support.processes import cass_server, wait_until
from tests.support.servers import serving


def test_a_certificate_that_is_not_yet_valid(tmp_path: Path) -> None:
    """Its end, which is before its beginning, is a matter of `FileWatch`."""
    pair = Authority().issue()
    clock = [sys.executable, "-c", NOT_YET, str(tmp_path)]
    put(tmp_path / "tls.crt", pair.certificate)
    put(tmp_path / "tls.key", pair.key)
    done = subprocess.run(clock, capture_output=True, text=True, timeout=60, check=True)
    assert done.stderr == "clients will refuse the certificate\n"


def test_a_key_of_a_kind_that_clients_do_not_know(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A warning, and neither an error nor the end of looking after files."""
    pair = Authority().issue(curve=ec.SECP256K1)
    files = put(tmp_path / "tls.crt", pair.certificate), put(tmp_path / "tls.key", pair.key)
    tls = TlsFiles(*files, None)
    assert caplog.messages == ["clients will refuse the certificate"]
    assert vars(caplog.records[0])["reason"] == "NO_SHARED_CIPHER"
    assert tls.expiries == {}


@pytest.mark.parametrize("version", ["TLSv1.2", "TLSv1.3"])
def test_whatever_version_openssl_is_set_to(tmp_path: Path, version: str) -> None:
    """Its configuration may be that of a system of strict or of old rules."""
    pair = Authority().issue()
    put(tmp_path / "tls.crt", pair.certificate)
    put(tmp_path / "tls.key", pair.key)
    written = OPENSSL.format(version=version).encode()
    environment = os.environ | {"OPENSSL_CONF": str(put(tmp_path / "openssl.cnf", written))}
    program = [sys.executable, "-c", ENDS, str(tmp_path)]
    done = subprocess.run(
        program, capture_output=True, text=True, timeout=60, check=True, env=environment
    )
    ends = x509.load_pem_x509_certificate(pair.certificate).not_valid_after_utc.timestamp()
    assert (float(done.stdout), done.stderr) == (ends, "")


OPENSSL = """
openssl_conf = all
[all]
ssl_conf = tls
[tls]
system_default = versions
[versions]
MinProtocol = {version}
MaxProtocol = {version}
"""
ENDS = """
import sys
from pathlib import Path
from cass_server.security.tls import TlsFiles
folder = Path(sys.argv[1])
print(TlsFiles(folder / "tls.crt", folder / "tls.key", None).expiries["tls_certificate"])
"""
NOT_YET = """
import sys
import types
from pathlib import Path
from cass_server.security import tls
folder = Path(sys.argv[1])
tls.time = types.SimpleNamespace(time=lambda: 1.0)
tls.TlsFiles(folder / "tls.crt", folder / "tls.key", None)
"""


def test_a_key_that_every_user_may_read(caplog: pytest.LogCaptureFixture) -> None:
    pair = Authority().issue()
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        folder = Path(name)
        folder.chmod(0o755)
        certificate = put(folder / "tls.crt", pair.certificate)
        key = put(folder / "tls.key", pair.key)
        for mode, is_warned in ((0o640, False), (0o644, True), (0o620, False), (0o602, True)):
            key.chmod(mode)
            caplog.clear()
            TlsFiles(certificate, key, None)
            assert caplog.messages == ["secret open to every user"] * is_warned
        assert vars(caplog.records[0])["tls_key"] == str(key)


@pytest.mark.slow
def test_grpc_tells_of_handshakes_if_it_is_asked_to(tmp_path: Path) -> None:
    """As docs/operations.md says."""
    authority = Authority()
    pair = authority.issue()
    ca = str(put(tmp_path / "ca.pem", authority.certificate))
    options = ["--tls-client-ca", ca]
    for name, content in (("--tls-certificate", pair.certificate), ("--tls-key", pair.key)):
        options += [name, str(put(tmp_path / name.strip("-"), content))]
    with serving(*options, env={"GRPC_VERBOSITY": "INFO"}) as server:
        assert cass_server("health", "--address", server.address, "--tls-ca", ca).returncode == 1
        wait_until(
            lambda: any("PEER_DID_NOT_RETURN_A_CERTIFICATE" in line for line in server.lines),
            server,
        )
