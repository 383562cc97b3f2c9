"""What users write for a server's address, as gRPC understands it."""

from __future__ import annotations

import ipaddress
import re
import socket

from cass_core.errors import InvalidRequest

# A scheme of gRPC's, such as dns:///host:port, unix:path or ipv4:1.2.3.4:50051,1.2.3.5:50051.
_SCHEME = re.compile(r"(dns|unix|unix-abstract|ipv4|ipv6|vsock|xds|google-c2p):")


def grpc_target(target: str) -> str:
    """The target for a channel.

    Args:
        target: a gRPC target, ``HOST:PORT``, or several of these with commas between them, whose
            hosts are looked up now.

    Raises:
        InvalidRequest: one of several hosts has no address, or no port.

    Example:
        >>> grpc_target("trainer.example:50051")
        'dns:///trainer.example:50051'
        >>> grpc_target("127.0.0.1:50051,127.0.0.2:50051")
        'ipv4:127.0.0.1:50051,127.0.0.2:50051'
    """
    if _SCHEME.match(target):
        return target
    if "," not in target:
        return f"dns:///{target}"
    addresses = [_addresses(part.strip()) for part in target.split(",")]
    for scheme in ("ipv4", "ipv6"):
        if all(scheme in found for found in addresses):
            return f"{scheme}:{','.join(found[scheme] for found in addresses)}"
    raise InvalidRequest("target", f"{target} mixes hosts of IPv4 and of IPv6 alone")


def _addresses(part: str) -> dict[str, str]:
    """An address of a host and its port for each family it has."""
    host, colon, port = part.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not colon or not host or not port.isdigit():
        raise InvalidRequest("target", f"{part!r} must be HOST:PORT")
    try:
        found = socket.getaddrinfo(host, int(port), type=socket.SOCK_STREAM)
    except OSError as error:
        raise InvalidRequest("target", f"no address is known for {host}: {error}") from error
    addresses: dict[str, str] = {}
    for _, _, _, _, (address, *_) in found:
        ip = ipaddress.ip_address(str(address).partition("%")[0])
        text = f"[{ip}]:{port}" if ip.version == 6 else f"{ip}:{port}"
        addresses.setdefault(f"ipv{ip.version}", text)
    return addresses
