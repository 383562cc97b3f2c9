"""A service on a cluster: started, replaced replica by replica, watched until it runs, stopped."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import ray
from ray import serve
from ray.exceptions import ActorDiedError
from ray.serve.config import AutoscalingConfig, AutoscalingPolicy
from ray.serve.schema import (
    ApplicationStatus,
    ApplicationStatusOverview,
    LoggingConfig,
    ServeStatus,
)

from cass.discovery import Listing
from cass_core.errors import CassError
from cass_server.ray.autoscaling import replicas_for_load
from cass_server.ray.connection import check_nodes
from cass_server.ray.directory import close_directory, find_directory, open_directory
from cass_server.ray.replica import Replica, stop_seconds
from cass_server.ray.spec import Plan

_REPLICA = "replica"
_POLL_SECONDS = 0.25
_CHECK_SECONDS = 2.0
_CHECK_TIMEOUT_SECONDS = 10.0
# Replicas report their load this often; the mean of the look-back time decides, and more replicas
# start once it has been high for the upscale time.
_REPORT_SECONDS = 1.0
_LOOK_BACK_SECONDS = 10.0
_UPSCALE_SECONDS = 5.0
# An update starts this share of replicas, at least one, before it stops as many old ones.
_SURGE_PERCENT = 20
_START_ATTEMPTS = 3
_DIRECTORY_SECONDS = 30.0

_Progress = Callable[[str], None]


def application_name(service: str) -> str:
    """The name of a service among the applications of Ray Serve."""
    return f"cass-server-{service}"


def start(plan: Plan, seconds: float, report: _Progress) -> tuple[str, ...]:
    """Start a service, or replace its replicas one after another, and wait until all run.

    Serve is started if it does not run, without HTTP.

    Returns the replicas' addresses.

    Raises:
        CassError: a node's address is not allowed, or see `wait_until_running`.
    """
    check_nodes(plan.settings)
    open_directory(plan.name)
    serve.start(proxy_location="Disabled")
    application = _deployment(plan).bind(plan.name, plan.settings.model_dump_json())
    target = serve.RunTarget(
        target=application, name=application_name(plan.name), route_prefix=None
    )
    serve.run_many([target], wait_for_applications_running=False)
    return wait_until_running(plan.name, seconds, report)


def wait_until_running(service: str, seconds: float, report: _Progress) -> tuple[str, ...]:
    """Wait until all replicas run, and no old ones; returns their addresses.

    Raises:
        CassError: they do not run by then, replicas cannot be started, or they were stopped;
            with the reason.
    """
    for status in _statuses(service, seconds, report):
        if status is None or status.status == ApplicationStatus.DELETING:
            raise CassError(f"service {service} was stopped meanwhile")
        if status.status == ApplicationStatus.RUNNING:
            return _listing(service).addresses
        if status.status == ApplicationStatus.DEPLOY_FAILED:
            raise CassError(_reason(status) or "Ray Serve cannot start it")
        last = status
    reason = _reason(last) or "see `ray status` for what they wait for"
    raise CassError(f"after {seconds:g} s {_progress(last)}: {reason}; Ray goes on trying")


def stop(service: str, seconds: float, report: _Progress) -> None:
    """Stop a service's replicas and its directory, and Serve too, if this was all that it ran.

    Raises:
        CassError: there is no such service, or replicas still run after so many seconds.
    """
    found = _status(service) is not None
    if found:
        serve.delete(application_name(service), _blocking=False)
        if all(_statuses(service, seconds, report)):
            raise CassError(f"replicas still run after {seconds:g} s; Ray goes on stopping them")
    if not close_directory(service) and not found:
        raise CassError(f"no service {service} on this cluster")
    if _is_idle():
        serve.shutdown()


def scrape_targets(service: str) -> list[dict[str, Any]]:
    """Where replicas serve metrics, as Prometheus reads it from files (``file_sd_configs``).

    Raises:
        CassError: there is no such service.
    """
    if (directory := find_directory(service)) is None:
        raise CassError(f"no service {service} on this cluster")
    found = ray.get(directory.metrics.remote(), timeout=_DIRECTORY_SECONDS)
    return [{"targets": found, "labels": {"service": service}}]


def _deployment(plan: Plan) -> Any:
    if plan.min_replicas == plan.max_replicas:
        size: dict[str, Any] = {"num_replicas": plan.max_replicas}
    else:
        size = {"autoscaling_config": _autoscaling(plan)}
    return serve.deployment(
        name=_REPLICA,
        ray_actor_options={"num_cpus": plan.num_cpus, "num_gpus": plan.num_gpus},
        health_check_period_s=_CHECK_SECONDS,
        health_check_timeout_s=_CHECK_TIMEOUT_SECONDS,
        # Serve waits for its own calls, of which there are none.
        graceful_shutdown_wait_loop_s=0.01,
        graceful_shutdown_timeout_s=stop_seconds(plan.settings),
        max_constructor_retry_count=_START_ATTEMPTS,
        rolling_update_percentage=_SURGE_PERCENT / 100,
        max_surge_percent=_SURGE_PERCENT,
        logging_config=LoggingConfig(enable_access_log=False),
        **size,
    )(Replica)


def _autoscaling(plan: Plan) -> AutoscalingConfig:
    with warnings.catch_warnings():
        # The variable that will replace `metrics_interval_s` is not read yet.
        warnings.simplefilter("ignore", DeprecationWarning)
        return AutoscalingConfig(
            min_replicas=plan.min_replicas,
            max_replicas=plan.max_replicas,
            target_ongoing_requests=plan.target_in_flight,
            metrics_interval_s=_REPORT_SECONDS,
            look_back_period_s=_LOOK_BACK_SECONDS,
            upscale_delay_s=_UPSCALE_SECONDS,
            downscale_delay_s=plan.calm_seconds,
            policy=AutoscalingPolicy(policy_function=replicas_for_load),
        )


def _statuses(
    service: str, seconds: float, report: _Progress
) -> Iterator[ApplicationStatusOverview | None]:
    """The service's status again and again for so many seconds; each change is reported."""
    end, reported = time.monotonic() + seconds, ""
    while True:
        status = _status(service)
        if status is not None and (progress := _progress(status)) != reported:
            report(progress)
            reported = progress
        yield status
        if time.monotonic() > end:
            return
        time.sleep(_POLL_SECONDS)


def _status(service: str) -> ApplicationStatusOverview | None:
    return _serve_status().applications.get(application_name(service))


def _serve_status() -> ServeStatus:
    """Serve's status; empty if it has ended, as after another command stops the last service."""
    try:
        return serve.status()
    except ActorDiedError:
        return ServeStatus()


def _is_idle() -> bool:
    """Whether Serve runs no application and no HTTP proxy."""
    status = _serve_status()
    return not status.applications and not status.proxies


def _listing(service: str) -> Listing:
    listing: Listing = ray.get(
        open_directory(service).watch.remote(0, 0.0), timeout=_DIRECTORY_SECONDS
    )
    return listing


def _progress(status: ApplicationStatusOverview) -> str:
    states = [
        f"{count} {state.lower()}"
        for deployment in status.deployments.values()
        for state, count in deployment.replica_states.items()
        if count
    ]
    return f"replicas: {', '.join(states) or 'none'}"


def _reason(status: ApplicationStatusOverview) -> str:
    """Serve's reason for a failure, without the traceback."""
    for deployment in status.deployments.values():
        lines = deployment.message.strip().splitlines()
        if lines:
            # The last line of a traceback, without the exception's class.
            return lines[-1].strip().removeprefix(f"{CassError.__module__}.CassError: ")
    return ""
