"""Files of secrets that are none: pipes and devices are refused at once, marks are skipped."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cass_core.errors import CassError
from cass_server.security.tls import TlsFiles, client_credentials
from cass_server.security.tokens import TokenFile
from tests.server.support.certificates import Authority, put

pytestmark = pytest.mark.timeout(30)

REASON = "is no regular file, which can be read again"


@pytest.fixture(params=["fifo", "device"])
def odd(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A pipe that nobody writes to, or a device without an end."""
    if request.param == "device":
        return Path("/dev/zero")
    os.mkfifo(tmp_path / "fifo")
    return tmp_path / "fifo"


def test_tokens(odd: Path) -> None:
    with pytest.raises(CassError) as caught:
        TokenFile(odd)
    assert str(caught.value) == f"token_file {odd}: {REASON}"


def test_tls(odd: Path, tmp_path: Path) -> None:
    authority = Authority()
    pair = authority.issue()
    certificate = put(tmp_path / "tls.crt", pair.certificate)
    key = put(tmp_path / "tls.key", pair.key)
    for name, files in (
        ("tls_certificate", (odd, key, None)),
        ("tls_key", (certificate, odd, None)),
        ("tls_client_ca", (certificate, key, odd)),
    ):
        with pytest.raises(CassError) as caught:
            TlsFiles(*files)
        assert str(caught.value) == f"{name} {odd}: {REASON}"
    with pytest.raises(CassError) as caught:
        client_credentials(odd, None, None)
    assert str(caught.value) == f"--tls-ca {odd}: {REASON}"


def test_a_byte_order_mark_before_the_first_token(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    path.write_bytes(b"\xef\xbb\xbfa-token-of-this-test\r\n")
    assert TokenFile(path).allows([("authorization", "Bearer a-token-of-this-test")])
