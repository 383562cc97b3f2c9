"""How many replicas a load wants: what Ray Serve's controller asks, again and again.

Ray sends this module to the controller as it is, so it needs nothing else of this package.
"""

from __future__ import annotations

from typing import Any

IN_FLIGHT = "in_flight"
"""What a replica reports: the mean number of its requests in flight."""


def replicas_for_load(context: Any) -> tuple[float, dict[str, Any]]:
    """So many replicas that each has the number of requests in flight that is aimed at.

    Bounds, delays and rounding upwards are Serve's.

    Args:
        context: a `ray.serve.config.AutoscalingContext`.

    Returns:
        The number of replicas, and what Serve is to remember, which is nothing.
    """
    loads = (context.aggregated_metrics or {}).get(IN_FLIGHT)
    if not loads:
        return context.target_num_replicas, {}
    return sum(loads.values()) / context.config.get_target_ongoing_requests(), {}
