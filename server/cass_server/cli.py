"""The entry point of `cass-server`, which needs nothing that may not be installed."""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Run the command; without the server's dependencies, say what to install."""
    # gRPC's own lines are not JSON, and what they tell is logged here too. Set before it is
    # imported.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    try:
        from cass_server.commands import app

        app()
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] in {"cass", "cass_core", "cass_server"}:
            raise
        extra = "ray" if sys.argv[1:2] == ["ray"] else "server"
        sys.exit(f"cass-server: needs {error.name}, which pip install 'cass[{extra}]' brings")
