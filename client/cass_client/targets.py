"""What users write for a server's address, checked, and as gRPC understands it."""

from __future__ import annotations

import ipaddress
import os
import re
import socket
from collections.abc import Sequence
from typing import Any, NoReturn

from cass.discovery import SCHEME, SERVICE_FORM
from cass_client.errors import Unavailable
from cass_core.errors import InvalidRequest

LOCAL = "local:"
_DEFAULT_PORT = 50051
_FORMS = "must be HOST:PORT, ray:NAME or local:"

# Hosts may be called like a scheme, as in ray:50051.
_PORT = "[0-9]+(,|$)"
# A scheme of gRPC's, such as dns:///host:port, unix:path or ipv4:1.2.3.4:50051,1.2.3.5:50051.
_SCHEME = re.compile(f"(dns|unix|unix-abstract|ipv4|ipv6|vsock|xds|google-c2p):(?!{_PORT})")
_ANY_CASE = re.compile(f"ray:(?!{_PORT})|{_SCHEME.pattern}", re.IGNORECASE)
_LOCAL_FORMS = re.compile(f"local(:(?!{_PORT}).*)?", re.IGNORECASE | re.DOTALL)
_URL = re.compile(r"([a-z][a-z0-9+.-]*):///?(?:[^/?#]*@)?([^/?#]*)", re.IGNORECASE)
_LABEL = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?")
# Of which gRPC reads one.
_XDS_VARIABLES = ("GRPC_XDS_BOOTSTRAP", "GRPC_XDS_BOOTSTRAP_CONFIG")
_NUMBER = re.compile("[0-9]+|0[xX][0-9a-fA-F]*")
# Of the path of a socket, in Linux.
_MOST_PATH_BYTES = 107


def check_target(target: object) -> None:
    """Rejects what cannot be the address of a server, with the form that it should have."""
    if target == LOCAL:
        return
    if not isinstance(target, str) or not target.strip():
        # What is before an @ may be a password.
        got = type(target).__name__ if "@" in repr(target) else repr(target)
        raise InvalidRequest("target", f"{_FORMS}, got {got}")
    if _LOCAL_FORMS.fullmatch(target.strip()):
        raise InvalidRequest("target", f"{_FORMS}, got {target!r}; write {LOCAL!r}")
    scheme, colon, rest = target.partition(":")
    if _ANY_CASE.match(target) and scheme != scheme.lower():
        form = f"; write {scheme.lower() + colon + rest!r}" if "@" not in target else ""
        raise InvalidRequest("target", f"must have {scheme + colon!r} in lower case{form}")
    if service_of(target) is None:
        endpoints_of(target)


def service_of(target: str) -> str | None:
    """The service that ``ray:NAME`` names; None for other targets.

    Example:
        >>> service_of("ray:cass"), service_of("ray:50051")
        ('cass', None)
    """
    name = target.removeprefix(SCHEME)
    if name == target or re.match(_PORT, name):
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


def endpoints_of(target: str) -> list[tuple[str, int]]:
    """The hosts and ports of a target; none where it is a socket's path or only gRPC knows.

    Example:
        >>> endpoints_of("[::1]:50051,trainer:50052"), endpoints_of("unix:/run/cass.sock")
        ([('::1', 50051), ('trainer', 50052)], [])
    """
    scheme = _SCHEME.match(target)
    if scheme is None:
        # What is before an @ may be a password, with commas too.
        is_several = "," in target and "@" not in target
        parts = [part.strip() for part in target.split(",")] if is_several else [target]
        return [_endpoint(part) for part in parts]
    rest = target[scheme.end() :]
    match scheme[1]:
        case "dns":
            authority = re.match("//([^/]*)/", rest)
            endpoint = _endpoint(rest[authority.end() :] if authority else rest)
            return [] if authority and authority[1] else [endpoint]
        case "ipv4" | "ipv6" as family:
            endpoints = [_endpoint(part) for part in rest.split(",")]
            if any(f"ipv{_ip_version(host)}" != family for host, _ in endpoints):
                raise InvalidRequest("target", f"must have addresses of {family}, got {target!r}")
            return endpoints
        case "unix" | "unix-abstract":
            path = rest.removeprefix("//")
            if path != rest and not path.startswith("/"):
                raise InvalidRequest(
                    "target", f"must have no host, got {target!r}; write {f'{scheme[1]}:{path}'!r}"
                )
            if not path or len(path.encode()) > _MOST_PATH_BYTES:
                raise InvalidRequest(
                    "target", f"must have a path of 1 to {_MOST_PATH_BYTES} bytes, got {target!r}"
                )
        case "vsock" if not re.fullmatch("[0-9]{1,10}:[0-9]{1,10}", rest):
            raise InvalidRequest("target", f"must be vsock:CID:PORT, got {target!r}")
        case "xds" if not any(map(os.environ.get, _XDS_VARIABLES)):
            raise InvalidRequest("target", f"needs {' or '.join(_XDS_VARIABLES)}, got {target!r}")
    return []


def _endpoint(part: str) -> tuple[str, int]:
    """The host, without brackets, and the port of a ``HOST:PORT``."""
    if url := _URL.match(part):  # which may hold a password
        secured = " with tls=Tls()" if url[1].lower() in ("https", "grpcs") else ""
        # An @ after the host is that of a password with a slash, or of a path.
        is_path = "@" in part[url.end() :] or (":///" in part and ":" not in url[2])
        advice = "" if is_path else _advice(_with_port(url[2]), secured)
        raise InvalidRequest("target", f"must be HOST:PORT, not a URL{advice}")
    if "@" in part:
        advice = _advice(_with_port(part.rpartition("@")[2]))
        raise InvalidRequest("target", f"must be HOST:PORT, without what is before the @{advice}")
    pieces = re.split(r"[\s;]+", part.strip())
    if len(pieces) > 1 and _are_endpoints(pieces):
        _refuse(part, "is several without commas", ",".join(pieces))
    if part.split() != [part]:
        _refuse(part, "has blanks" if part else "is empty", "".join(part.split()))
    if part.count(":") > 1 and not part.startswith("["):
        address, _, port = part.rpartition(":")
        if _ip_version(part) == 6:
            _refuse(part, "is an IPv6 address without brackets", f"[{part}]:{_DEFAULT_PORT}")
        if _ip_version(address) == 6:
            _refuse(part, "is an IPv6 address without brackets", f"[{address}]:{port}")
        _refuse(part, "has more than one colon")
    host, colon, port = part.rpartition(":")
    if part.isdigit() or (colon and not host):
        _refuse(part, "has no host", f"localhost:{port or part}")
    if not colon or part.endswith("]"):
        host = part.rstrip("/")
        is_path = "/" in host or not host
        _refuse(part, "has no port", f"unix:{part}" if is_path else _with_port(host))
    if not _is_port(port):
        _refuse(part, "has no port from 1 to 65535", _with_port(f"{host}:{port.rstrip('/')}"))
    bracketed = host.startswith("[") and host.endswith("]")
    name = host[1:-1] if bracketed else host
    if not is_host(name) or bracketed != (_ip_version(name) == 6):
        _refuse(part, "has no name or address of a host")
    return name, int(port)


def _refuse(part: str, reason: str, form: str = "") -> NoReturn:
    raise InvalidRequest("target", f"must be HOST:PORT: {part!r} {reason}{_advice(form)}")


def _advice(form: str, more: str = "") -> str:
    """The form to write, if it is one."""
    good = form.startswith("unix:") or (form != "" and _are_endpoints(form.split(",")))
    return f"; write {form!r}{more}" if good else ""


def _are_endpoints(parts: Sequence[str]) -> bool:
    try:
        return all(_endpoint(part) for part in parts)
    except InvalidRequest:
        return False


def _with_port(text: str) -> str:
    """A host with its port, or with the default one where that is none."""
    host, colon, port = text.rpartition(":")
    if not colon or text.endswith("]"):
        host, port = text, ""
    return f"{host or 'localhost'}:{port if _is_port(port) else _DEFAULT_PORT}"


def _is_port(text: str) -> bool:
    return re.fullmatch("[0-9]{1,5}", text) is not None and 0 < int(text) <= 65535


def is_host(name: Any) -> bool:
    """Whether it is a name or an address of a host."""
    if not isinstance(name, str):
        return False
    if _ip_version(name) is not None:
        return True
    labels = name.removesuffix(".").split(".")
    # What ends in a number is an address, or no name at all.
    is_number = _NUMBER.fullmatch(labels[-1]) is not None
    return len(name) < 255 and not is_number and all(map(_LABEL.fullmatch, labels))


def _ip_version(text: str) -> int | None:
    try:
        return ipaddress.ip_address(text).version
    except ValueError:
        return None


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
    for host, port in endpoints_of(target):
        try:
            for scheme, address in _addresses(host, port):
                addresses[scheme].append(address)
        except OSError as error:
            failure = error
    # One channel has addresses of one family.
    scheme, found = max(addresses.items(), key=lambda item: len(item[1]))
    if not found:
        raise Unavailable(
            f"{target}: no host has an address ({failure}): see whether the names are right"
        ) from failure
    return f"{scheme}:{','.join(dict.fromkeys(found))}"


def _addresses(host: str, port: int) -> list[tuple[str, str]]:
    """All addresses of a host, with their family's scheme."""
    found = []
    for _, _, _, _, (address, *_) in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
        ip = ipaddress.ip_address(str(address).partition("%")[0])
        found.append((f"ipv{ip.version}", f"[{ip}]:{port}" if ip.version == 6 else f"{ip}:{port}"))
    return found
