"""What the server's log says of certificates that clients will refuse, and of failed handshakes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.server.support.certificates import Authority, put
from tests.server.support.processes import cass_server, wait_until
from tests.support.servers import serving


@pytest.mark.parametrize("expired", [False, True])
def test_an_expired_certificate_is_reported_at_the_start(expired: bool, tmp_path: Path) -> None:
    pair = Authority().issue(expired=expired)
    certificate = put(tmp_path / "tls.crt", pair.certificate)
    key = put(tmp_path / "tls.key", pair.key)
    with serving("--tls-certificate", str(certificate), "--tls-key", str(key)) as server:
        records = [json.loads(line) for line in server.lines]
    warnings = [
        (record["event"], record["tls_certificate"], record["reason"])
        for record in records
        if record["level"] == "WARNING"
    ]
    expected = ("clients will refuse the certificate", str(certificate), "certificate has expired")
    assert warnings == [expected] * expired


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
