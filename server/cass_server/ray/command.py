"""The command `cass-server ray`, after its options are read."""

from __future__ import annotations

from collections.abc import Callable

from cass_core.errors import CassError
from cass_server.ray.connection import check_nodes, connected
from cass_server.ray.deployment import deploy, stop, wait_until_running
from cass_server.ray.spec import Plan


def start_service(
    address: str, plan: Plan, seconds: float, report: Callable[[str], None]
) -> tuple[str, ...]:
    """Start a service, or update one that runs.

    Args:
        address: of the Ray cluster.
        plan: the service.
        seconds: time to wait until it runs.
        report: called with each step.

    Returns:
        The replicas' addresses.

    Raises:
        CassError: there is no cluster, or the service does not run in time; with the reason.
    """
    with connected(address):
        check_nodes(plan.settings)
        deploy(plan)
        return wait_until_running(plan.name, seconds, report)


def stop_service(address: str, name: str, seconds: float, report: Callable[[str], None]) -> None:
    """Stop a service.

    Raises:
        CassError: there is no cluster or no such service, or it still runs after so many seconds.
    """
    with connected(address):
        if not stop(name, seconds, report):
            raise CassError(f"no service {name} on this cluster")
