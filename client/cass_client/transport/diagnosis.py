"""Why a server cannot be reached: what each of its addresses answers to a connection of our own.

gRPC reports the address that it tried last, and most mistakes with TLS as a closed socket.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
import threading
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from cass_client.config import Settings, Tls
from cass_client.targets import endpoints_of
from cass_client.transport.proxy import proxy_of

if TYPE_CHECKING:
    import ssl

# For all addresses: at most, and at least, though the deadline of the call is nearer.
_MOST_SECONDS, _LEAST_SECONDS = 5.0, 0.2
_MOST_ADDRESSES = 8
_ANSWER_SECONDS = 2.0
# What an HTTP/2 client begins with: its preface and empty SETTINGS (RFC 9113, 3.4).
_HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
_SETTINGS = b"\4"
_SERVE = "start a server there with `cass-server serve`"
_AWAY = (
    f'{_SERVE}, or compute in this process: with the target "local:", or with fallback="local" '
    "while it is away"
)
# OpenSSL's codes, and those of its reasons that a server's alert about a certificate has.
_EXPIRED, _NOT_YET_VALID, _OTHER_NAMES = 10, 9, (62, 64)
_ABOUT_CERTIFICATES = ("CERTIFICATE", "UNKNOWN_CA", "HANDSHAKE_FAILURE", "ACCESS_DENIED")


class _Finding(NamedTuple):
    """What an address answers, and what helps, if that is not to start a server."""

    text: str
    advice: str = ""


_SPEAKS_GRPC = _Finding("speaks HTTP/2")
_HTTP_1 = _Finding("an HTTP/1 server", "give the address of a CASS server, not of its metrics")
_SILENT = _Finding("accepts connections, but does not answer", "see whether it is a CASS server")
_OTHER = _Finding("does not speak HTTP/2", "give the address of a CASS server")
_ONLY_TLS = _Finding("speaks only TLS", "give tls=Tls(ca=...)")
_NO_TLS = _Finding("does not speak TLS", "leave tls out, or start it with --tls-certificate")
_WANTS_CERTIFICATE = _Finding("wants a client certificate", "give Tls(certificate=..., key=...)")
_REFUSES_CERTIFICATE = _Finding(
    "refuses the client's certificate", "give a valid one of an authority it knows"
)


class _Address(NamedTuple):
    label: str
    host: str
    family: int
    place: Any


def explain(settings: Settings, replicas: Sequence[str], details: str, seconds: float) -> str:
    """What the addresses answer and what helps; ``details``, gRPC's, where that says no more.

    The replicas are the addresses of a service on Ray. So many seconds are left for the call.
    """
    target = ",".join(replicas) or settings.target
    hosts = [host for host, _ in endpoints_of(target)]
    if not replicas and (variable := proxy_of(hosts)):
        return (
            f"{details}; the variable {variable} sends calls of {hosts[0]} through a proxy: add "
            "the host to no_proxy if it is to be called directly"
        )
    try:
        context = None if settings.tls is None else _context(settings.tls)
    except ValueError as error:
        return f"cannot be reached: {error}"
    answers: dict[str, _Finding] = {}

    def ask_all() -> None:
        for address in itertools.islice(_addresses(target, answers), _MOST_ADDRESSES):
            name = settings.server_name or address.host
            answers[address.label] = _ask(address, context, name, settings.tls)

    # In a thread, since nothing else ends the look-up of a name.
    asking = threading.Thread(target=ask_all, name="cass-client-diagnosis", daemon=True)
    asking.start()
    asking.join(min(max(seconds, _LEAST_SECONDS), _MOST_SECONDS))
    found = dict(answers)
    if not found or _SPEAKS_GRPC in found.values():
        starting = "is not ready to serve: it is starting, or about to stop"
        return starting if "backend unhealthy" in details else details
    advice = next((finding.advice for finding in found.values() if finding.advice), "")
    said = ", ".join(f"{label}: {finding.text}" for label, finding in found.items())
    return f"cannot be reached ({said}): {advice or (_SERVE if settings.fallback else _AWAY)}"


def _addresses(target: str, found: dict[str, _Finding]) -> Iterator[_Address]:
    """The addresses of all hosts; a host without one is a finding itself."""
    if target.startswith("unix:"):
        path = target.removeprefix("unix:").removeprefix("//")
        yield _Address(path, "localhost", socket.AF_UNIX, path)
    for host, port in endpoints_of(target):
        try:
            known = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except OSError as error:
            found[host] = _Finding(error.strerror or str(error), "see whether the name is right")
            continue
        for family, _, _, _, place in known:
            ip = f"[{place[0]}]" if family == socket.AF_INET6 else place[0]
            yield _Address(f"{ip}:{port}", host, family, place)


def _ask(address: _Address, context: ssl.SSLContext | None, name: str, tls: Tls | None) -> _Finding:
    try:
        with _connected(address) as connection:
            if context is not None and tls is not None:
                return _secured(connection, context, name, tls)
            found = _hello(connection)
        # A server of TLS may close what is not TLS without a word.
        return _ONLY_TLS if found is _OTHER and _speaks_tls(address) else found
    except TimeoutError:
        return _Finding("no answer")
    except OSError as error:
        return _Finding(error.strerror or str(error))


@contextlib.contextmanager
def _connected(address: _Address) -> Iterator[socket.socket]:
    with socket.socket(address.family) as connection:
        connection.settimeout(_ANSWER_SECONDS)
        connection.connect(address.place)
        yield connection


def _hello(connection: socket.socket) -> _Finding:
    """What answers an HTTP/2 client."""
    answer = b""
    try:
        connection.sendall(_HELLO)
        while len(answer) < 5 and (more := connection.recv(9)):
            answer += more
    except TimeoutError:
        return _SILENT
    except ConnectionError:
        pass
    if answer.startswith((b"HTTP/", b"<")):  # or an error's page alone
        return _HTTP_1
    return _SPEAKS_GRPC if answer[3:4] == _SETTINGS else _OTHER


def _speaks_tls(address: _Address) -> bool:
    import ssl

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    try:
        with _connected(address) as connection:
            context.wrap_socket(connection, server_hostname=address.host).close()
    except ssl.SSLError as error:
        return "ALERT" in (error.reason or "")
    except OSError:
        return False
    return True


def _context(tls: Tls) -> ssl.SSLContext:
    """How the client secures its connections; raises a `ValueError` about files that are wrong."""
    import ssl

    authorities = tls.ca or os.environ.get("GRPC_DEFAULT_SSL_ROOTS_FILE_PATH")
    try:
        context = ssl.create_default_context(cafile=authorities)
    except OSError as error:
        raise ValueError(f"tls.ca: {authorities} has no certificate in PEM") from error
    # gRPC is less strict than Python.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    context.set_alpn_protocols(["h2"])
    if tls.certificate is not None:
        try:
            context.load_cert_chain(tls.certificate, tls.key, password="")
        except OSError as error:
            if getattr(error, "reason", "") == "KEY_VALUES_MISMATCH":
                raise ValueError("tls.key: is not the key of tls.certificate") from error
            raise ValueError(
                "tls.certificate, tls.key: are not a pair in PEM with a key that is not encrypted"
            ) from error
    return context


def _secured(connection: socket.socket, context: ssl.SSLContext, name: str, tls: Tls) -> _Finding:
    """What answers an HTTP/2 client over TLS."""
    import ssl

    refusal = _WANTS_CERTIFICATE if tls.certificate is None else _REFUSES_CERTIFICATE
    try:
        with context.wrap_socket(connection, server_hostname=name) as secured:
            found = _hello(secured)
            # A server that wants a certificate may just close the connection.
            return refusal if found is _OTHER else found
    except TimeoutError:
        return _SILENT
    except ssl.SSLCertVerificationError as error:
        return _certificate(error.verify_code, name, tls)
    except ssl.SSLError as error:
        reason = error.reason or ""
        if "ALERT" not in reason:
            return _NO_TLS
        if any(part in reason for part in _ABOUT_CERTIFICATES):
            return refusal
        return _Finding(f"refuses TLS ({reason.lower().replace('_', ' ')})", "see its log")


def _certificate(code: int, name: str, tls: Tls) -> _Finding:
    if code == _EXPIRED:
        return _Finding("its certificate has expired", "renew it")
    if code == _NOT_YET_VALID:
        return _Finding("its certificate is not valid yet", "compare the clocks")
    if code in _OTHER_NAMES:
        return _Finding(
            f"its certificate is not for {name}", "give Tls(server_name=...) a name that it is for"
        )
    known = "the system knows" if tls.ca is None else "tls.ca has"
    return _Finding(
        f"its certificate is of no authority that {known}",
        "give the certificate of its authority as Tls(ca=...)",
    )
