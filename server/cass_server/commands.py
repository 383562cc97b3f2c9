"""The commands of `cass-server`."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from cass_core import __version__
from cass_core.errors import CassError
from cass_server.config.cli_options import GroupedCommand, takes_settings
from cass_server.config.sources import SettingsError, load_settings
from cass_server.process.health_check import SERVING, Tls, check
from cass_server.ray.spec import (
    REJECTED_SETTINGS,
    Plan,
    check_name,
    replica_bounds,
    settings_of_replicas,
)

app = typer.Typer(
    help="Serve CASS masks and losses over gRPC.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


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
    """Takes the options before a command."""


@app.command(cls=GroupedCommand)
@takes_settings
def serve(
    config: Annotated[
        Path | None, typer.Option(metavar="FILE", help="TOML file with settings.")
    ] = None,
    print_config: Annotated[
        bool,
        typer.Option(
            "--print-config", help="Print the settings in force and their sources, then exit."
        ),
    ] = False,
    **command_line: Any,
) -> None:
    """Serve until SIGTERM or SIGINT, then finish requests in flight and exit.

    Each option may also be a variable of the environment (CASS_MAX_IMAGES for --max-images) or a
    key in the TOML file (max_images). The command line takes precedence over the environment, and
    that over the file. CASS_CONFIG may name the file.

    Logs one JSON object a line to standard error. The line with the event "serving" has the
    address; it follows once everything is compiled and health checks return SERVING.
    """
    try:
        loaded = load_settings(command_line, config)
    except SettingsError as error:
        raise _failure(error, 2) from error
    if print_config:
        typer.echo(loaded.toml(), nl=False)
        return
    # Imports the whole server, which --help and --print-config need not wait for.
    from cass_server.process.main import run

    try:
        run(loaded.settings)
    except CassError as error:
        raise _failure(error, 1) from error


@app.command(name="ray", cls=GroupedCommand)
@partial(takes_settings, hidden=REJECTED_SETTINGS)
def on_ray(
    name: Annotated[
        str, typer.Option(metavar="NAME", help="Name of the service; clients call ray:NAME.")
    ] = "cass",
    address: Annotated[
        str, typer.Option(help="Ray cluster; auto is RAY_ADDRESS, or the cluster of this machine.")
    ] = "auto",
    replicas: Annotated[
        int | None, typer.Option(min=1, help="Number of replicas. [default: 1]")
    ] = None,
    min_replicas: Annotated[
        int | None,
        typer.Option(min=1, help="Fewest replicas, with --max-replicas. [default: 1]"),
    ] = None,
    max_replicas: Annotated[
        int | None, typer.Option(min=1, help="Most replicas; turns on autoscaling.")
    ] = None,
    target_in_flight: Annotated[
        float, typer.Option(min=0.01, help="Target for the mean requests in flight per replica.")
    ] = 4.0,
    calm_seconds: Annotated[
        float, typer.Option(min=0, help="Seconds of low load before scaling down.")
    ] = 300.0,
    num_cpus: Annotated[
        float, typer.Option(min=0, help="CPUs that Ray reserves for a replica.")
    ] = 1.0,
    num_gpus: Annotated[
        float, typer.Option(min=0, help="GPUs that Ray reserves for a replica, as in 0.25.")
    ] = 0.0,
    timeout: Annotated[
        float, typer.Option(min=1, help="Seconds to wait until all replicas run or have stopped.")
    ] = 300.0,
    stop: Annotated[bool, typer.Option("--stop", help="Stop the service.")] = False,
    scrape_targets: Annotated[
        bool,
        typer.Option(
            "--scrape-targets",
            help="Print where replicas serve metrics (--metrics-port), for Prometheus' file_sd.",
        ),
    ] = False,
    config: Annotated[
        Path | None, typer.Option(metavar="FILE", help="TOML file with settings.")
    ] = None,
    **command_line: Any,
) -> None:
    """Run replicas on the nodes of a Ray cluster, and print their addresses.

    Ray replaces replicas that die. Running the command again with other settings replaces the
    replicas one by one; calls of clients that retry do not fail.

    Settings are the same as for `serve`. Files that they name must be on every node.
    """
    try:
        check_name(name)
        least, most = replica_bounds(replicas, min_replicas, max_replicas)
        settings = settings_of_replicas(load_settings(command_line, config), num_cpus, num_gpus)
    except CassError as error:
        raise _failure(error, 2) from error
    plan = Plan(name, settings, least, most, target_in_flight, calm_seconds, num_cpus, num_gpus)
    from cass_server.ray import deployment
    from cass_server.ray.connection import connected

    def report(progress: str) -> None:
        typer.echo(f"{name}: {progress}", err=True)

    try:
        with connected(address):
            if stop:
                deployment.stop(name, timeout, report)
                report("stopped")
                return
            if scrape_targets:
                typer.echo(json.dumps(deployment.scrape_targets(name)))
                return
            for found in deployment.start(plan, timeout, report):
                typer.echo(found)
    except CassError as error:
        raise _failure(error, 1) from error


@app.command()
def health(
    address: Annotated[str, typer.Option(help="HOST:PORT of the server.")] = "127.0.0.1:50051",
    timeout: Annotated[float, typer.Option(min=0.001, help="Seconds to wait.")] = 5.0,
    tls_ca: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="PEM file with the authority of the server's certificate. [default: gRPC's roots]",
        ),
    ] = None,
    tls_certificate: Annotated[
        Path | None, typer.Option(metavar="FILE", help="PEM file with a client certificate.")
    ] = None,
    tls_key: Annotated[
        Path | None, typer.Option(metavar="FILE", help="PEM file with its key.")
    ] = None,
    tls_server_name: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Name in the server's certificate, if not HOST."),
    ] = None,
) -> None:
    """Exit with 0 if a server is serving at the address, else with 1.

    Any option that begins with --tls connects by TLS.
    """
    if (tls_certificate is None) != (tls_key is None):
        raise _failure("--tls-certificate and --tls-key go together", 2)
    ca = _contents("--tls-ca", tls_ca)
    certificate = _contents("--tls-certificate", tls_certificate)
    key = _contents("--tls-key", tls_key)
    tls = None
    if any(given is not None for given in (ca, certificate, tls_server_name)):
        tls = Tls(ca, certificate, key, tls_server_name)
    try:
        status = check(address, timeout, tls)
    except CassError as error:
        typer.echo(error, err=True)
        raise typer.Exit(1) from error
    typer.echo(f"{address}: {status}")
    if status != SERVING:
        raise typer.Exit(1)


def _contents(option: str, file: Path | None) -> bytes | None:
    try:
        return None if file is None else file.read_bytes()
    except OSError as error:
        raise _failure(f"{option}: cannot read {file}: {error.strerror}", 2) from error


def _failure(reason: CassError | str, code: int) -> typer.Exit:
    """Prints the reason, line by line; returns the exit to raise."""
    for line in str(reason).splitlines():
        typer.echo(f"cass-server: {line}", err=True)
    return typer.Exit(code)
