"""The commands of `cass-server`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

import typer

from cass_core import __version__
from cass_core.errors import CassError
from cass_server.config.address import check_address
from cass_server.config.cli_options import (
    ConfigFile,
    GroupedCommand,
    failure,
    say,
    takes_settings,
)
from cass_server.config.reference import shown
from cass_server.config.sources import SettingsError, load_settings
from cass_server.process.health_check import SERVING, check
from cass_server.ray.options import on_ray
from cass_server.security.tls import client_credentials

CAPABILITIES = ("8.0", "8.6", "8.9", "9.0", "10.0", "12.0")
"""GPUs since Ampere: A100, RTX 30, L4 and RTX 40, H100 and H200, B200, RTX 50."""

app = typer.Typer(
    help="Serve CASS masks and losses over gRPC.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def _show_version(wanted: bool) -> None:
    if wanted:
        say(__version__)
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


@app.command(cls=GroupedCommand, short_help="Serve masks and losses.")
@takes_settings
def serve(
    config: ConfigFile = None,
    print_config: Annotated[
        bool,
        typer.Option(
            "--print-config", help="Print the settings in force and their sources, then exit."
        ),
    ] = False,
    **command_line: Any,
) -> None:
    """Serve until SIGTERM, SIGINT or SIGHUP, then finish requests in flight and exit.

    Each option may also be a variable of the environment (CASS_MAX_IMAGES for --max-images) or a
    key in the TOML file (max_images). The command line takes precedence over the environment, and
    that over the file. CASS_CONFIG may name the file.

    Logs one JSON object a line to standard error. The line with the event "serving" has the
    address; it follows once everything is compiled and health checks return SERVING.
    """
    try:
        loaded = load_settings(command_line, config)
    except SettingsError as error:
        raise failure(error, 2) from error
    if print_config:
        say(loaded.toml().rstrip())
        return
    # Imports the whole server, which --help and --print-config need not wait for.
    from cass_server.process.main import run

    try:
        run(loaded.settings)
    except CassError as error:
        raise failure(error, 1) from error


app.command(name="ray", cls=GroupedCommand, short_help="Run replicas on a Ray cluster.")(on_ray)


@app.command(name="compile-kernels", short_help="Compile a GPU's kernels ahead of time.")
def compile_kernels(
    capability: Annotated[
        list[str],
        typer.Option(
            metavar="X.Y", help="Compute capability of the GPUs; may be given several times."
        ),
    ] = list(CAPABILITIES),  # noqa: B006 - typer copies it
    processes: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Kernels at a time. [default: the CPU's cores]"),
    ] = None,
) -> None:
    """Fill Triton's cache (TRITON_CACHE_DIR) with what servers on GPUs load when they start.

    Needs torch and Triton and no GPU. What is in the cache already is left as it is.
    """
    for text in capability:
        if not re.fullmatch("[1-9][0-9]?[.][0-9]", text):
            raise failure(f"--capability: must be as in 9.0, got {text}", 2)
    try:
        from cass_server.engines.kernel_cache import fill
    except ImportError as error:
        raise failure(f"needs torch and Triton: {error}", 1) from error
    from cass_core.cpu.cores import core_count

    try:
        for text in capability:
            number = int(text.replace(".", ""))
            cached, compiled = fill(number, processes or core_count())
            say(f"sm_{number}: {compiled} kernels compiled, {cached} were there")
    except CassError as error:
        raise failure(error, 1) from error


@app.command(short_help="Check that a server is serving.")
def health(
    address: Annotated[
        str, typer.Option(metavar="ADDRESS", help="HOST:PORT of the server, or unix:PATH.")
    ] = "127.0.0.1:50051",
    timeout: Annotated[
        float, typer.Option(metavar="SECONDS", min=0.001, max=86400, help="Seconds to wait.")
    ] = 5.0,
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
    credentials = None
    try:
        check_address(address)
    except CassError as error:
        raise failure(f"--address: {error}", 2) from error
    if any(given is not None for given in (tls_ca, tls_certificate, tls_key, tls_server_name)):
        try:
            credentials = client_credentials(tls_ca, tls_certificate, tls_key)
        except CassError as error:
            raise failure(error, 2) from error
    try:
        status = check(address, timeout, credentials, tls_server_name)
    except CassError as error:
        typer.echo(shown(str(error)), err=True)
        raise typer.Exit(1) from error
    say(f"{address}: {status}")
    if status != SERVING:
        raise typer.Exit(1)
