"""The client SDK of CASS: masks and losses from a server, or locally, with one interface.

Importing it loads neither torch nor numba.
"""

from __future__ import annotations

from cass_client.client import CassClient, ServerInfo
from cass_client.errors import ServerError, Timeout, Unavailable
from cass_core.boxes import BoxBatch
from cass_core.errors import CassError, InvalidRequest
from cass_core.losses import LossResult
from cass_core.specs import LossSpec, MaskSpec

__all__ = [
    "BoxBatch",
    "CassClient",
    "CassError",
    "InvalidRequest",
    "LossResult",
    "LossSpec",
    "MaskSpec",
    "ServerError",
    "ServerInfo",
    "Timeout",
    "Unavailable",
]
