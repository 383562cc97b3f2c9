"""The connection of a command to a Ray cluster."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import sys
import warnings
from collections.abc import Iterator

import ray
from ray.exceptions import AuthenticationError, RayError
from ray.serve.exceptions import RayServeException

from cass_core.errors import CassError
from cass_server.config.settings import Settings
from cass_server.ray.server_process import settings_at

_KNOCK_SECONDS = 5.0
_NEEDS_TOKEN = (
    "the cluster requires Ray's token: set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN or"
    " RAY_AUTH_TOKEN_PATH where the cluster's token is not in ~/.ray/auth_token"
)


@contextlib.contextmanager
def connected(address: str) -> Iterator[None]:
    """A connection as a driver of the cluster, without its log.

    Raises:
        CassError: there is no such cluster, its version of Ray or Python differs, or a request
            to it fails.
    """
    if address == "auto":
        address = os.environ.get("RAY_ADDRESS") or address
    try:
        _knock(address)
        with warnings.catch_warnings(), _silent():
            warnings.simplefilter("ignore")
            ray.init(address, log_to_driver=False, logging_level=logging.ERROR)
    except (RayError, RuntimeError, ValueError, OSError) as error:
        raise CassError(f"--address {address}: {_line(error)}") from None
    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    try:
        yield
    except (RayError, RayServeException, TimeoutError) as error:
        raise CassError(f"--address {address}: {_line(error)}") from None
    finally:
        ray.shutdown()


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Discard what Ray's core writes to standard error: a warning a second hides the error."""
    sys.stderr.flush()
    kept = os.dup(2)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _line(error: BaseException) -> str:
    """An error and the last line of its cause; a missing token in words of our own."""
    text = " ".join(str(error).split())
    if isinstance(error, AuthenticationError) or "AuthToken" in f"{text} {error.__cause__}":
        return _NEEDS_TOKEN
    cause = str(error.__cause__ or "").strip().splitlines()
    return f"{text}: {cause[-1]}" if cause else text


def _knock(address: str) -> None:
    """Rejects an address that refuses connections at once; Ray would retry for minutes.

    Raises:
        OSError: there is no connection.
        ValueError: it stands for a cluster that would end with this command.
    """
    if address == "local":
        raise ValueError("must be of a cluster that runs")
    host, colon, port = address.rpartition(":")
    if colon and port.isdigit() and "/" not in host:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_KNOCK_SECONDS).close()


def check_nodes(settings: Settings) -> None:
    """Rejects settings that a replica could not use on each node.

    Raises:
        CassError: they do not allow a node's address.
    """
    for node in ray.nodes():
        if node["Alive"]:
            settings_at(settings, node["NodeManagerAddress"])
