"""The client SDK of CASS: masks and losses from a server, or locally, with one interface.

Importing it loads neither torch nor numba.
"""

from __future__ import annotations

import sys

try:
    from cass.malloc import keep_memory
except ModuleNotFoundError as error:
    if not (error.name or "").startswith("cass."):
        raise
    other = sys.modules["cass"]
    raise ImportError(
        f"{other.__file__ or list(other.__path__)} is imported as the package cass, which "
        "cass_client needs for its own: rename or uninstall the other one"
    ) from error

from cass_client._base import ServerInfo
from cass_client.aio import AsyncCassClient
from cass_client.arguments import MaskRequest
from cass_client.boxes import xyxy_boxes
from cass_client.calls.fallback import FallbackWarning
from cass_client.client import CassClient
from cass_client.config import Tls
from cass_client.errors import (
    Overloaded,
    ServerError,
    Timeout,
    Unauthenticated,
    Unavailable,
)
from cass_client.transport.profile import CallProfile
from cass_core import __version__ as __version__
from cass_core.boxes import BoxBatch
from cass_core.errors import CassError, InputWarning, InvalidRequest
from cass_core.results import LossResult
from cass_core.specs import LossSpec, MaskSpec, WeightSpec

__all__ = [
    "AsyncCassClient",
    "BoxBatch",
    "CallProfile",
    "CassClient",
    "CassError",
    "FallbackWarning",
    "InputWarning",
    "InvalidRequest",
    "LossResult",
    "LossSpec",
    "MaskRequest",
    "MaskSpec",
    "Overloaded",
    "ServerError",
    "ServerInfo",
    "Timeout",
    "Tls",
    "Unauthenticated",
    "Unavailable",
    "WeightSpec",
    "keep_memory",
    "xyxy_boxes",
]
