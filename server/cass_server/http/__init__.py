"""The service over HTTP: JSON for people and pages, Connect and gRPC-Web for generated clients."""

from __future__ import annotations

from cass_server.http.application import app
from cass_server.http.listener import serving

__all__ = ["app", "serving"]
