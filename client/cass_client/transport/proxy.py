"""The HTTP proxy of the environment's variables: which hosts are called through it."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Sequence

# In gRPC's order, https://github.com/grpc/grpc/blob/master/doc/environment_variables.md; of the
# exceptions it reads neither the upper-case name nor a `*`, which other programs do.
_VARIABLES = ("grpc_proxy", "https_proxy", "http_proxy")
_EXCEPTIONS = ("no_grpc_proxy", "no_proxy", "NO_PROXY")
_LOOPBACK_NAMES = ("localhost", "ip6-localhost", "ip6-loopback")


def proxy_of(hosts: Sequence[str]) -> str | None:
    """The variable that names the proxy of these hosts; None if they are called directly.

    Loopback has none, and neither have several hosts, since gRPC cannot send a list to a proxy.
    """
    variable = next((name for name in _VARIABLES if os.environ.get(name)), None)
    if variable is None or len(hosts) != 1 or is_loopback(hosts[0]):
        return None
    exceptions = next((os.environ[name] for name in _EXCEPTIONS if os.environ.get(name)), "")
    entries = [entry.strip().lower() for entry in exceptions.split(",")]
    return None if any(_covers(entry, hosts[0].lower()) for entry in entries if entry) else variable


def is_loopback(host: str) -> bool:
    """Whether a host is this machine by its name or address."""
    name = host.lower().removesuffix(".")
    if name in _LOOPBACK_NAMES or name.endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return False
    address = getattr(address, "ipv4_mapped", None) or address
    # The kernel connects the unspecified address to this machine.
    return address.is_loopback or address.is_unspecified


def _covers(entry: str, host: str) -> bool:
    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(entry, strict=False)
    except ValueError:  # names, which are compared from their end
        name = entry.removeprefix("*")
        if name.count(":") == 1:
            name = name.partition(":")[0]
        return entry == "*" or (name != "" and host.endswith(name))
