"""Exits with 0 if the server of this container serves, else with 1: the images' health check.

Runs `cass-server health` as the settings of the environment, or of the file that CASS_CONFIG names,
say that the server is reached. With TLS it trusts the server's own certificate, whoever issued it.
With mutual TLS it shows that certificate too, so the clients' authority has to accept it; where it
does not, give the container a health check of its own (`docker run --health-cmd`).
"""

from __future__ import annotations

import os
import sys

from cass_server.config.address import address_of
from cass_server.config.settings import Settings
from cass_server.config.sources import load_settings
from cass_server.security.shown_name import shown_name

_LIMIT = 4.0
"""Seconds for each of two steps; the image's HEALTHCHECK allows them both."""

_EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}


def health_options(settings: Settings) -> list[str]:
    """The options of `cass-server health` for a server with these settings.

    Raises:
        OSError: with TLS, nobody answers.
    """
    host = _EVERYWHERE.get(settings.host, settings.host)
    options = ["--address", address_of(host, settings.port), f"--timeout={_LIMIT}"]
    if settings.tls_certificate is None:
        return options
    certificate = str(settings.tls_certificate)
    name = shown_name(host, settings.port, settings.tls_certificate, _LIMIT)
    options += ["--tls-ca", certificate, "--tls-server-name", name]
    if settings.tls_client_ca is not None:
        options += ["--tls-certificate", certificate, "--tls-key", str(settings.tls_key)]
    return options


def main() -> None:
    """Become `cass-server health`."""
    try:
        options = health_options(load_settings({}).settings)
    except OSError as error:
        sys.exit(f"health: {error}")
    os.execvp("cass-server", ["cass-server", "health", *options])


if __name__ == "__main__":
    main()
