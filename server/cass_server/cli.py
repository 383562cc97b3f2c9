"""The command `cass-server`."""

from __future__ import annotations

import os

# gRPC's own lines are not JSON, and what they tell is logged here too. Set before it is imported.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

import asyncio
import logging
import sys
from enum import StrEnum
from typing import Annotated

import grpc
import typer
from grpc_health.v1 import health_pb2, health_pb2_grpc

from cass_core import __version__
from cass_core.errors import CassError
from cass_server.app import serve as run_server
from cass_server.engine import make_engine
from cass_server.limits import Limits
from cass_server.logs import set_up_logging

app = typer.Typer(
    help="Serve CASS masks and losses over gRPC.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

Port = Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes a free one.")]


class LogLevel(StrEnum):
    """What is logged."""

    debug = "debug"
    info = "info"
    warning = "warning"
    error = "error"


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Show the version and exit.", callback=_show_version, is_eager=True
        ),
    ] = False,
) -> None:
    """Take the options that stand before a command."""


@app.command()
def serve(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Port = 50051,
    device: Annotated[
        str, typer.Option(help="auto (CUDA if there is one), cpu, cuda or cuda:N.")
    ] = "auto",
    drain_seconds: Annotated[
        float, typer.Option(min=0, help="Time for requests in flight after SIGTERM or SIGINT.")
    ] = 30.0,
    log_level: Annotated[LogLevel, typer.Option(help="What is logged.")] = LogLevel.info,
) -> None:
    """Serve until SIGTERM or SIGINT; then answer what is in flight and exit.

    Logs one JSON object a line to standard error. The line with the event "serving" tells the
    address, once everything is compiled and health checks are answered with SERVING.
    """
    set_up_logging(log_level.value)
    try:
        asyncio.run(run_server(make_engine(device), Limits(), host, port, drain_seconds))
    except CassError as error:
        typer.echo(f"cass-server: {error}", err=True)
        raise typer.Exit(1) from error
    # A computation that outlives the drain cannot be cancelled, and the interpreter would wait
    # for its thread.
    logging.shutdown()
    os._exit(0)


@app.command()
def health(
    address: Annotated[str, typer.Option(help="HOST:PORT of the server.")] = "127.0.0.1:50051",
    timeout: Annotated[float, typer.Option(min=0.001, help="Seconds to wait.")] = 5.0,
) -> None:
    """Exit with 0 if a server is serving there, else with 1."""
    with grpc.insecure_channel(address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        try:
            answer = stub.Check(health_pb2.HealthCheckRequest(), timeout=timeout)
        except grpc.RpcError as error:
            typer.echo(f"{address}: {error.code().name}", err=True)
            raise typer.Exit(1) from error
    name = health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)
    typer.echo(f"{address}: {name}")
    if answer.status != health_pb2.HealthCheckResponse.SERVING:
        raise typer.Exit(1)


def main() -> None:
    """Entry point of the command."""
    sys.exit(app())
