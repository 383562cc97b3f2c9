"""How the replicas on a Ray cluster are found: what a directory's keeper and clients agree on.

A directory is a named, detached Ray actor, one for each service. Replicas report to it; clients
follow its list. Neither side imports Ray from here.
"""

from __future__ import annotations

import re
from typing import NamedTuple

SCHEME = "ray:"
"""What a client's target begins with; the name of a service follows."""

SERVICE_FORM = re.compile(r"(?![0-9]+$)[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
"""The whole name of a service; ``ray:50051`` is a port of a host called ray."""

NAMESPACE = "cass"
"""The Ray namespace of all directories."""


class Listing(NamedTuple):
    """What a directory answers.

    Attributes:
        version: differs from that of every other list, those before a restart of the directory
            included; 0 is no list's.
        addresses: ``HOST:PORT`` of the replicas that take calls, sorted.
    """

    version: int
    addresses: tuple[str, ...]


def directory_name(service: str) -> str:
    """The name of a service's directory among the actors of `NAMESPACE`.

    A directory has the method ``watch(version: int, seconds: float) -> Listing``: it answers as
    soon as its list has another version, else after so many seconds with the one it has.

    Example:
        >>> directory_name("cass")
        'directory-of-cass'
    """
    return f"directory-of-{service}"
