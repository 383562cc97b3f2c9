"""Options of how a server is reached, for the commands that may ask one."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from cass_client.client import CassClient
from cass_client.config import Tls
from cass_client.targets import service_of


def _file(help_: str) -> Any:
    return typer.Option(metavar="FILE", dir_okay=False, help=help_)


@dataclass(frozen=True)
class Connection:
    """How a server is reached; each field is an option."""

    server: Annotated[
        str,
        typer.Option(
            metavar="HOST:PORT", help="Where to compute: there, ray:NAME on Ray, local: here."
        ),
    ] = "local:"
    timeout: Annotated[
        float, typer.Option(metavar="SECONDS", help="Time for a call with all its tries.")
    ] = 30.0
    tls: Annotated[
        bool,
        typer.Option("--tls", help="Connect by TLS; so does any option that begins with --tls."),
    ] = False
    tls_ca: Annotated[
        Path | None,
        _file("PEM file with the authority of the server's certificate; without, gRPC's own."),
    ] = None
    tls_certificate: Annotated[Path | None, _file("PEM file with a client certificate.")] = None
    tls_key: Annotated[Path | None, _file("PEM file with its key.")] = None
    tls_server_name: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="What the server's certificate is for, if not HOST."),
    ] = None
    token_file: Annotated[Path | None, _file("File with the token that the server wants.")] = None

    def client(self) -> CassClient:
        """A client for it.

        Raises:
            ConnectionError: a service on Ray, and no cluster is found.
        """
        given = (self.tls_ca, self.tls_certificate, self.tls_key, self.tls_server_name)
        secured = self.tls or any(value is not None for value in given)
        client = CassClient(
            self.server,
            timeout=self.timeout,
            tls=Tls(*given) if secured else None,
            token_file=self.token_file,
        )
        if service_of(self.server) is not None:
            _connect_to_ray()
        return client


def _connect_to_ray() -> None:
    """What a program does for itself, before it makes a client: a command is the whole program."""
    import ray

    ray.init("auto", log_to_driver=False, logging_level=logging.ERROR)
