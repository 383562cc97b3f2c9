"""Authorities and certificates made at run time, so that none lies in the repository to expire."""

from __future__ import annotations

import datetime
import ipaddress
import os
import socket
import ssl
from dataclasses import dataclass
from pathlib import Path

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.server.support.processes import LIMIT

_USAGES = (
    "digital_signature",
    "content_commitment",
    "key_encipherment",
    "data_encipherment",
    "key_agreement",
    "key_cert_sign",
    "crl_sign",
    "encipher_only",
    "decipher_only",
)
_DAY = datetime.timedelta(days=1)
_DAYS = 60.0


@dataclass(frozen=True)
class Pair:
    """A certificate and its key.

    Attributes:
        certificate: PEM.
        key: PEM, not encrypted.
        serial: the certificate's serial number.
    """

    certificate: bytes
    key: bytes
    serial: int


class Authority:
    """A root that issues certificates.

    Attributes:
        certificate: the root's certificate, PEM.
    """

    def __init__(self, name: str = "Authority of a test", days: float = _DAYS) -> None:
        self._name = _name(name)
        self._key = ec.generate_private_key(ec.SECP256R1())
        self.certificate = _pem(self._sign(self._name, self._key.public_key(), days=days))

    def issue(
        self,
        host: str = "127.0.0.1",
        *,
        expired: bool = False,
        uri: str = "",
        days: float = _DAYS,
        curve: type[ec.EllipticCurve] = ec.SECP256R1,
    ) -> Pair:
        """A certificate for a server or a client.

        Args:
            host: name or address that it is valid for.
            expired: it was valid until yesterday.
            uri: it is valid for, too, and names it first.
            days: that it is valid for from now on, unless it has expired.
            curve: of its key.
        """
        key = ec.generate_private_key(curve())
        first = [x509.UniformResourceIdentifier(uri)] if uri else []
        names = x509.SubjectAlternativeName([*first, _general_name(host)])
        certificate = self._sign(_name(host), key.public_key(), names, -1 if expired else days)
        plain = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        return Pair(_pem(certificate), plain, certificate.serial_number)

    def _sign(
        self,
        subject: x509.Name,
        key: ec.EllipticCurvePublicKey,
        names: x509.SubjectAlternativeName | None = None,
        days: float = _DAYS,
    ) -> x509.Certificate:
        """A certificate for these names, or one that issues others."""
        now = datetime.datetime.now(datetime.UTC)
        issues = names is None
        usage = dict.fromkeys(_USAGES, False)
        usage |= {"digital_signature": True, "key_cert_sign": issues, "crl_sign": issues}
        # Certificates name their issuer's key by this: some clients insist on it.
        key_id = x509.SubjectKeyIdentifier.from_public_key(self._key.public_key())
        issuer = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(key_id)
        builder = (
            x509.CertificateBuilder(self._name, subject, key, x509.random_serial_number())
            .not_valid_before(now - 3 * _DAY)
            .not_valid_after(now + days * _DAY)
            .add_extension(x509.BasicConstraints(issues, 0 if issues else None), critical=True)
            .add_extension(x509.KeyUsage(**usage), critical=True)
            .add_extension(key_id if issues else issuer, critical=False)
        )
        if names is not None:
            builder = builder.add_extension(names, critical=False)
        return builder.sign(self._key, hashes.SHA256())

    def trusted(self, pair: Pair | None = None) -> grpc.ChannelCredentials:
        """Credentials of a client that trusts this authority and shows this certificate."""
        if pair is None:
            return grpc.ssl_channel_credentials(self.certificate)
        return grpc.ssl_channel_credentials(self.certificate, pair.key, pair.certificate)


def encrypted(key: bytes, password: bytes) -> bytes:
    """A PEM key, encrypted."""
    return serialization.load_pem_private_key(key, None).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(password),
    )


def serial_of(certificate: bytes) -> int:
    """The serial number of a DER certificate."""
    return x509.load_der_x509_certificate(certificate).serial_number


def shown_serial(address: str) -> int:
    """The serial number of the certificate that a new connection is shown."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    host, port = address.split(":")
    with (
        socket.create_connection((host, int(port)), timeout=LIMIT) as plain,
        context.wrap_socket(plain) as wrapped,
    ):
        certificate = wrapped.getpeercert(binary_form=True)
    assert certificate is not None
    return serial_of(certificate)


def put(path: Path, content: bytes) -> Path:
    """Write a file as rotations do: it is there as a whole, or not yet."""
    fresh = path.with_name(path.name + ".new")
    fresh.write_bytes(content)
    os.replace(fresh, path)
    return path


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)
