"""The options of the command `cass-server ray`, which are read without Ray."""

from __future__ import annotations

import json
from functools import partial
from typing import Annotated, Any

import typer

from cass_core.errors import CassError
from cass_server.config.cli_options import ConfigFile, failure, say, takes_settings
from cass_server.config.sources import load_settings
from cass_server.ray.spec import (
    REJECTED_SETTINGS,
    Plan,
    check_name,
    replica_bounds,
    settings_of_replicas,
)


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
        int | None, typer.Option(min=1, help="Fewest replicas, with --max-replicas. [default: 1]")
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
    config: ConfigFile = None,
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
        raise failure(error, 2) from error
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
                say(json.dumps(deployment.scrape_targets(name)))
                return
            for found in deployment.start(plan, timeout, report):
                say(found)
    except CassError as error:
        raise failure(error, 1) from error
