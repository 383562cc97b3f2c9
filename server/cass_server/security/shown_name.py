"""What a server that speaks TLS is called by its certificate, for health checks of one's own."""

from __future__ import annotations

import socket
import ssl
from pathlib import Path

# Of all that a certificate may be for, such as a URI, what a server is called by.
_KINDS = ("DNS", "IP Address")


def shown_name(host: str, port: int, certificate: Path, seconds: float) -> str:
    """A name or an address that the certificate of a server is for.

    Args:
        host: that it listens on.
        port: that it listens on.
        certificate: PEM file with the one it is to show, whoever issued it.
        seconds: to wait for its answer.

    Raises:
        OSError: nobody answers there or shows another certificate, or it is for no name.
    """
    context = ssl.create_default_context(cafile=str(certificate))
    # The certificate is its own anchor, as it is for gRPC.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.check_hostname = False
    context.set_alpn_protocols(["h2"])
    with (
        socket.create_connection((host, port), timeout=seconds) as plain,
        context.wrap_socket(plain) as secured,
    ):
        shown = secured.getpeercert() or {}
    names = [entry[1] for entry in shown.get("subjectAltName", ()) if entry[0] in _KINDS]
    if not names:
        raise OSError(f"{certificate} is for no DNS name and no IP address")
    # Any name that the certificate's star stands for will do.
    return str(names[0]).replace("*", "health")
