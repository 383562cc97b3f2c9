"""The autoscaling policy that Ray Serve's controller calls periodically.

Ray sends this module to the controller as it is, so it needs nothing else of this package.
"""

from __future__ import annotations

from typing import Any

IN_FLIGHT = "in_flight"
"""The statistic that a replica reports: its mean requests in flight."""


def replicas_for_load(context: Any) -> tuple[float, dict[str, Any]]:
    """The number of replicas at which each has the target of requests in flight.

    Bounds, delays and rounding upwards are Serve's.

    Args:
        context: a `ray.serve.config.AutoscalingContext`.

    Returns:
        The number of replicas, and an empty state for Serve to keep.
    """
    loads = (context.aggregated_metrics or {}).get(IN_FLIGHT)
    if not loads:
        return context.target_num_replicas, {}
    return sum(loads.values()) / context.config.get_target_ongoing_requests(), {}
