"""Exits with 0 if the server of this container serves, else with 1: the images' health check.

Finds the server by the settings of the environment, or of the file that CASS_CONFIG names. With
TLS it trusts the server's own certificate, without a CA. With mutual TLS it shows that
certificate too, so the clients' authority has to accept it; where it does not, give the container a
health check of its own (`docker run --health-cmd`).
"""

from __future__ import annotations

import sys

from cass_core.errors import CassError
from cass_server.config.sources import load_settings
from cass_server.process.health_check import SERVING, check_local

_LIMIT = 4.0
"""Seconds for each of two steps; the image's HEALTHCHECK allows them both."""


def main() -> None:
    """Check once and exit."""
    try:
        settings = load_settings({}).settings
        status = check_local(settings, settings.port, _LIMIT)
    except CassError as error:
        sys.exit(f"health: {error}")
    print(status)
    sys.exit(status != SERVING)


if __name__ == "__main__":
    main()
