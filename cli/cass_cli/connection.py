"""Options for reaching a server."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from cass_client.client import CassClient
from cass_client.config import Tls
from cass_client.errors import Unavailable
from cass_client.targets import service_of
from cass_core.errors import InvalidRequest

# The fields of `CassClient` that options set; the files of some are read at the first call.
_FIELDS = ("target", "timeout", "tls", "token_file")


def _file(help_: str) -> Any:
    return typer.Option(metavar="FILE", dir_okay=False, help=help_)


@dataclass(frozen=True)
class Connection:
    """How to reach a server; each field is an option."""

    server: Annotated[
        str,
        typer.Option(
            metavar="HOST:PORT",
            help="Server that computes; ray:NAME for one on Ray, local: for none.",
        ),
    ] = "local:"
    timeout: Annotated[
        float, typer.Option(metavar="SECONDS", help="Time limit of a call, retries included.")
    ] = 30.0
    tls: Annotated[
        bool,
        typer.Option("--tls", help="Connect by TLS; so does any option that begins with --tls."),
    ] = False
    tls_ca: Annotated[
        Path | None,
        _file("PEM file with the authority of the server's certificate; by default gRPC's own."),
    ] = None
    tls_certificate: Annotated[Path | None, _file("PEM file with a client certificate.")] = None
    tls_key: Annotated[Path | None, _file("PEM file with its key.")] = None
    tls_server_name: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Name in the server's certificate, if it is not HOST."),
    ] = None
    token_file: Annotated[Path | None, _file("File with the bearer token for the server.")] = None

    @contextmanager
    def client(self) -> Iterator[CassClient]:
        """A client for the server, while the context lasts.

        Raises:
            InvalidRequest: an option cannot be used; it is named.
            Unavailable: the server is away.
            ConnectionError: the service is on Ray, and there is no cluster.
        """
        try:
            with self._client() as client:
                yield client
        except InvalidRequest as error:
            if error.field.partition(".")[0] not in _FIELDS:
                raise
            raise InvalidRequest(_option(error.field), error.reason) from error
        except Unavailable as error:
            text = re.sub(r'with the target "local:".*', "with --server local:", str(error))
            raise Unavailable(text) from error

    def _client(self) -> CassClient:
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


def _option(field: str) -> str:
    """The option that sets an argument of `CassClient`."""
    name = "server" if field == "target" else field
    return "--" + name.replace(".", "-").replace("_", "-")


def _connect_to_ray() -> None:
    """A program joins the cluster before it makes a client, and a command is a whole program."""
    import ray

    ray.init("auto", log_to_driver=False, logging_level=logging.ERROR)
