"""What users write for a server's address, as gRPC understands it."""

from __future__ import annotations

import ipaddress
import re
import socket

from cass.discovery import SCHEME, SERVICE_FORM
from cass_client.errors import Unavailable
from cass_core.errors import InvalidRequest

# A scheme of gRPC's, such as dns:///host:port, unix:path or ipv4:1.2.3.4:50051,1.2.3.5:50051.
_SCHEME = re.compile(r"(dns|unix|unix-abstract|ipv4|ipv6|vsock|xds|google-c2p):")

# A host may be called ray.
_PORT = re.compile(r"[0-9]+(,|$)")


def service_of(target: str) -> str | None:
    """The service that ``ray:NAME`` names; None for other targets.

    Example:
        >>> service_of("ray:cass"), service_of("ray:50051")
        ('cass', None)
    """
    name = target.removeprefix(SCHEME)
    if name == target or _PORT.match(name):
        return None
    if not SERVICE_FORM.fullmatch(name):
        raise InvalidRequest(
            "target",
            "must be ray:NAME, the name at most 100 letters, digits, dots, hyphens and "
            f"underscores, got {target!r}",
        )
    return name


def is_list(target: str) -> bool:
    """Whether a target is several ``HOST:PORT``, which gRPC itself does not look up."""
    return "," in target and not _SCHEME.match(target)


def hosts_of(target: str) -> list[tuple[str, int]]:
    """The hosts and ports of a list."""
    found = []
    for part in map(str.strip, target.split(",")):
        host, colon, port = part.rpartition(":")
        host = host.removeprefix("[").removesuffix("]")
        if not colon or not host or not port.isdigit():
            raise InvalidRequest("target", f"{part!r} must be HOST:PORT")
        found.append((host, int(port)))
    return found


def grpc_target(target: str) -> str:
    """The target for a channel that is opened now; hosts of a list are looked up here.

    Example:
        >>> grpc_target("trainer.example:50051")
        'dns:///trainer.example:50051'
        >>> grpc_target("127.0.0.1:50051,127.0.0.2:50051")
        'ipv4:127.0.0.1:50051,127.0.0.2:50051'
    """
    if _SCHEME.match(target):
        return target
    if not is_list(target):
        return f"dns:///{target}"
    addresses: dict[str, list[str]] = {"ipv4": [], "ipv6": []}
    failure = OSError()
    for host, port in hosts_of(target):
        try:
            for scheme, address in _addresses(host, port):
                addresses[scheme].append(address)
        except OSError as error:
            failure = error
    # One channel has addresses of one family.
    scheme, found = max(addresses.items(), key=lambda item: len(item[1]))
    if not found:
        raise Unavailable(f"{target}: no host has an address: {failure}") from failure
    return f"{scheme}:{','.join(dict.fromkeys(found))}"


def _addresses(host: str, port: int) -> list[tuple[str, str]]:
    """All addresses of a host, with their family's scheme."""
    found = []
    for _, _, _, _, (address, *_) in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
        ip = ipaddress.ip_address(str(address).partition("%")[0])
        found.append((f"ipv{ip.version}", f"[{ip}]:{port}" if ip.version == 6 else f"{ip}:{port}"))
    return found
