"""The entry point of `cass-server`; imports no optional dependency."""

from __future__ import annotations

import os
import sys

from cass_server.resource_limits import exit_exhausted
from cass_server.signals import exit_on_stop_signals


def main() -> None:
    """Runs the command; without its dependencies, exits with what to install."""
    exit_on_stop_signals()
    # gRPC's own log lines are not JSON, and repeat what is logged here. Set before its import.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    try:
        from cass_server.commands import app

        app()
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package in {"cass", "cass_core", "cass_server"}:
            raise
        extra = "ray" if sys.argv[1:2] == ["ray"] else "server"
        sys.exit(f"cass-server: needs {package}, which pip install 'cass[{extra}]' brings")
    except Exception as error:
        exit_exhausted(error)
