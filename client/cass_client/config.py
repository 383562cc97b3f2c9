"""The settings of a client: checked once, frozen, the same in every process it is sent to."""

from __future__ import annotations

import importlib.util
import numbers
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cass.redaction import shown_path
from cass_client.targets import LOCAL, check_target, endpoints_of, is_host, is_list, service_of
from cass_core.errors import CassError, InvalidRequest

_LONGEST = 365 * 24 * 3600.0


@dataclass(frozen=True, slots=True)
class Tls:
    """How the connection is secured; files are PEM, and read again when they change.

    Attributes:
        ca: certificates of the authorities that may have signed the server's; those of the system
            by default.
        certificate: the client's certificate, for mutual TLS.
        key: its key.
        server_name: the name in the server's certificate, where that is not the target's host.

    Example:
        >>> Tls(ca="ca.pem").certificate is None
        True
    """

    ca: str | os.PathLike[str] | None = None
    certificate: str | os.PathLike[str] | None = None
    key: str | os.PathLike[str] | None = None
    server_name: str | None = None

    def __post_init__(self) -> None:
        for name in ("ca", "certificate", "key"):
            _check_path(f"tls.{name}", getattr(self, name))
        if self.server_name is not None and not is_host(self.server_name):
            raise InvalidRequest(
                "tls.server_name", f"must be a host's name without a port, got {self.server_name!r}"
            )
        if (self.certificate is None) != (self.key is None):
            raise InvalidRequest("tls", "a certificate and its key go together")


@dataclass(frozen=True, slots=True)
class Settings:
    """The checked arguments of a client; see `cass_client.CassClient`."""

    target: str
    timeout: float
    tls: Tls | None = None
    token: str | None = field(default=None, repr=False)
    token_file: str | os.PathLike[str] | None = None
    fallback: str | None = None

    def __post_init__(self) -> None:
        check_target(self.target)
        if not _is_seconds(self.timeout):
            raise InvalidRequest(
                "timeout",
                f"must be a number of seconds above 0 and at most a year, got {self.timeout!r}",
            )
        object.__setattr__(self, "timeout", float(self.timeout))
        if self.tls is not None and not isinstance(self.tls, Tls):
            raise InvalidRequest("tls", f"must be a Tls, got {type(self.tls).__name__}")
        if self.service is not None:
            if importlib.util.find_spec("ray") is None:
                raise CassError(
                    f'{self.target} needs Ray; install it with: pip install "cass[ray]"'
                )
            if self.tls is not None and self.tls.server_name is None:
                raise InvalidRequest(
                    "tls", "needs a server_name that is in the certificates of all replicas"
                )
        elif is_list(self.target):
            names = {host for host, _ in endpoints_of(self.target)}
            if self.tls is not None and self.tls.server_name is None and len(names) > 1:
                raise InvalidRequest(
                    "tls", "needs a server_name that is in the certificates of all hosts"
                )
        if self.token is not None and self.token_file is not None:
            raise InvalidRequest("token_file", "cannot be given beside a token")
        _check_path("token_file", self.token_file)
        if self.token is not None:
            check_token("token", self.token)
        if self.fallback not in (None, "local"):
            raise InvalidRequest("fallback", f'must be "local" or None, got {self.fallback!r}')
        if "local" in (self.fallback, self.target.removesuffix(":")) and not _has_core():
            name = LOCAL if self.target == LOCAL else 'fallback="local"'
            raise CassError(f'{name} needs the core; install it with: pip install "cass[core]"')

    @property
    def service(self) -> str | None:
        """The service on Ray whose replicas answer, if it is one."""
        return service_of(self.target)

    @property
    def server_name(self) -> str | None:
        """The name in the server's certificate, where gRPC cannot take it from the target."""
        if self.tls is None:
            return None
        if self.tls.server_name is None and is_list(self.target):
            return endpoints_of(self.target)[0][0]
        return self.tls.server_name

    @property
    def is_local(self) -> bool:
        """Whether there is no server at all."""
        return self.target == LOCAL


def read_file(name: str, path: str | os.PathLike[str]) -> bytes:
    """The content of a file that a setting names."""
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise InvalidRequest(name, f"cannot read {shown_path(path)}: {error.strerror}") from None


def check_token(name: str, token: Any) -> None:
    """Rejects what cannot be sent as a token; the error does not contain it."""
    if not (isinstance(token, str) and token and all("!" <= c <= "~" for c in token)):
        raise InvalidRequest(name, "must be printable ASCII without blanks")


def _check_path(name: str, path: Any) -> None:
    if path is not None and not (isinstance(path, str | os.PathLike) and os.fspath(path)):
        # A key itself, say, is not repeated.
        got = "bytes" if isinstance(path, bytes) else repr(path)
        raise InvalidRequest(name, f"must be the path of a file, got {got}")


def _is_seconds(value: Any) -> bool:
    ok = isinstance(value, numbers.Real) and not isinstance(value, bool)
    return ok and 0 < value <= _LONGEST


def _has_core() -> bool:
    return importlib.util.find_spec("numba") is not None
