"""`cass info`: versions, and what a server tells of itself."""

from __future__ import annotations

import platform
from importlib import metadata

from rich.console import Console
from rich.table import Table

from cass_client.cli.options import ServerOption
from cass_client.client import CassClient
from cass_core import __version__

_PACKAGES = ("numpy", "grpcio", "protobuf", "numba", "torch", "matplotlib")


def info(server: ServerOption = "local:") -> None:
    """Show versions of what is installed, and a server's version, device and limits."""
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_row("cass", __version__)
    table.add_row("python", platform.python_version())
    for package in _PACKAGES:
        try:
            table.add_row(package, metadata.version(package))
        except metadata.PackageNotFoundError:
            table.add_row(package, "not installed")
    if server != "local:":
        with CassClient(server, timeout=10) as client:
            answer = client.info()
        table.add_section()
        table.add_row("server", server)
        table.add_row("version", answer.version)
        table.add_row("device", answer.device)
        for name, value in answer.limits.items():
            table.add_row(f"limit: {name}", f"{value:,}")
    Console().print(table)
