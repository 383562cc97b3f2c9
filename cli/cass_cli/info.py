"""`cass info`: versions, and the facts about a server."""

from __future__ import annotations

import platform
from importlib import metadata

from rich.console import Console
from rich.table import Table

from cass_cli.connection import Connection
from cass_cli.options import printable, takes
from cass_core import __version__

_PACKAGES = ("numpy", "grpcio", "protobuf", "numba", "torch", "matplotlib")


@takes("connection", Connection)
def info(connection: Connection) -> None:
    """Show versions of what is installed, and a server's version, device and limits."""
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_row("cass", __version__)
    table.add_row("python", platform.python_version())
    for package in _PACKAGES:
        try:
            table.add_row(package, metadata.version(package))
        except metadata.PackageNotFoundError:
            table.add_row(package, "not installed")
    if connection.server != "local:":
        with connection.client() as client:
            answer = client.info()
        table.add_section()
        table.add_row("server", connection.server)
        table.add_row("version", printable(answer.version))
        table.add_row("device", printable(answer.device))
        for name, value in answer.limits.items():
            table.add_row(f"limit: {printable(name)}", f"{value:,}")
    # Names are no markup.
    Console(markup=False, highlight=False, emoji=False).print(table)
