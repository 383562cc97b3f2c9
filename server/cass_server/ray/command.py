"""What `cass-server ray` does, once its options are read."""

from __future__ import annotations

from collections.abc import Callable

from cass_core.errors import CassError
from cass_server.ray.connection import check_nodes, connected
from cass_server.ray.deployment import deploy, stop, wait_until_running
from cass_server.ray.spec import Plan


def start_service(
    address: str, plan: Plan, seconds: float, tell: Callable[[str], None]
) -> tuple[str, ...]:
    """Start a service, or update one that runs.

    Args:
        address: of the Ray cluster.
        plan: what is to run.
        seconds: how long to wait until it does.
        tell: called with each step.

    Returns:
        The replicas' addresses.

    Raises:
        CassError: there is no cluster, or the service does not run by then; says why.
    """
    with connected(address):
        check_nodes(plan.settings)
        deploy(plan)
        return wait_until_running(plan.name, seconds, tell)


def stop_service(address: str, name: str, seconds: float, tell: Callable[[str], None]) -> None:
    """Stop a service.

    Raises:
        CassError: there is no cluster or no such service, or it still runs after so many seconds.
    """
    with connected(address):
        if not stop(name, seconds, tell):
            raise CassError(f"no service {name} on this cluster")
