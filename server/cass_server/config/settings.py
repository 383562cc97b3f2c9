"""The server's settings: each one's name, type, range, default and help, declared once."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from annotated_types import Ge, Le
from pydantic import (
    AfterValidator,
    ByteSize,
    Field,
    StringConstraints,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, SettingsConfigDict

from cass.contract import DEFAULT_LIMITS
from cass_core.errors import InvalidRequest
from cass_server.config.address import is_unix

PREFIX = "CASS_"
"""Prefix of the settings' environment variables."""

_INT32_MAX = 2**31 - 1


def _check_ip(host: str) -> str:
    ipaddress.ip_address(host)
    return host


def _words(words: str, metavar: str) -> WithJsonSchema:
    """A type in words, as it follows "must be", where its JSON schema does not say it."""
    return WithJsonSchema({"words": words, "metavar": metavar})


_BYTES = "a number of bytes (as in 65536 or 64KiB) from 1"

IpAddress = Annotated[str, AfterValidator(_check_ip), _words("an IP address (no brackets)", "HOST")]
HostName = Annotated[
    str,
    StringConstraints(pattern=r"^[A-Za-z0-9_]([A-Za-z0-9._-]*[A-Za-z0-9_.])?$"),
    _words("a host name", "HOST"),
]
UnixSocket = Annotated[str, StringConstraints(pattern="(?s)^unix:."), _words("unix:PATH", "HOST")]
Origins = Annotated[
    str,
    StringConstraints(pattern=r"^(\*|https?://[\w.:\[\]-]+(,https?://[\w.:\[\]-]+)*)$"),
    _words("* or origins such as https://labels.example, divided by commas", "ORIGINS"),
]
Host = IpAddress | HostName
ListenHost = IpAddress | HostName | UnixSocket
Port = Annotated[int, Ge(0), Le(65535)]
Device = Annotated[
    str,
    StringConstraints(pattern=r"^(auto|cpu|cuda(:[0-9]+)?)$"),
    _words("auto, cpu, cuda or cuda:N", "DEVICE"),
]
Count = Annotated[int, Ge(1), Le(_INT32_MAX)]
Work = Annotated[int, Ge(1), Le(2**53)]
CountOrAuto = Annotated[int, Ge(1), Le(1024)] | Literal["auto"]
Size = Annotated[ByteSize, Ge(1), _words(_BYTES, "BYTES")]
# gRPC holds a message's limit, and times in milliseconds, in 32 bits.
MessageSize = Annotated[
    ByteSize, Ge(1), Le(_INT32_MAX), _words(f"{_BYTES} to {_INT32_MAX}", "BYTES")
]
Seconds = Annotated[float, Ge(0), Le(_INT32_MAX // 1000)]
Interval = Annotated[float, Ge(0.001), Le(_INT32_MAX // 1000)]
Share = Annotated[float, Ge(0.001), Le(1)]
Milliseconds = Annotated[int, Ge(0), Le(1000)]


def _setting(group: str, default: Any, help: str) -> Any:
    return Field(default, description=help, json_schema_extra={"group": group})


class Settings(BaseSettings):
    """Everything that can be set about a server; `settings_table` explains each.

    Arguments take precedence over the ``CASS_…`` variables of the environment, and these over the
    defaults. `config.sources.load_settings` adds the command line and a TOML file.

    Raises:
        pydantic.ValidationError: a value is of the wrong type, out of its range, or does not go
            with another one.

    Example:
        >>> Settings(port=0, max_message_bytes="1MiB").max_message_bytes
        1048576
    """

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        # Compose files pass on unset variables as empty ones.
        env_ignore_empty=True,
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
        validate_default=True,
    )

    host: ListenHost = _setting(
        "Server", "127.0.0.1", "Address to listen on; unix:PATH for a socket in the file system."
    )
    port: Port = _setting("Server", 50051, "Port to listen on; 0 takes a free one.")
    device: Device = _setting(
        "Server",
        "auto",
        "Device to compute on; auto is CUDA if there is one, else the CPU. Workers share out the"
        " GPUs of auto and cuda.",
    )
    workers: CountOrAuto = _setting(
        "Server", 1, "Worker processes that share the port; auto is one a CPU core, or one a GPU."
    )
    compute_threads: CountOrAuto = _setting(
        "Server",
        "auto",
        "Threads that answer requests in one worker; auto is its CPU cores plus one.",
    )
    launch_timeout_seconds: Interval = _setting(
        "Server",
        60,
        "Seconds for a computation on a GPU, waiting for others included, before its worker"
        " is replaced.",
    )
    drain_seconds: Seconds = _setting(
        "Server", 30, "Seconds for requests in flight to finish once the server is to stop."
    )
    open_inference: bool = _setting(
        "Server", True, "Also serve the Open Inference Protocol, for Triton's and KServe's clients."
    )
    log_level: Literal["debug", "info", "warning", "error"] = _setting(
        "Server", "info", "Lowest level that is logged."
    )

    http_port: Port | None = _setting(
        "HTTP",
        None,
        "Port for JSON, Connect and gRPC-Web over HTTP, on the same host and with the same TLS and"
        " tokens; off if not set, 0 takes a free one.",
    )
    http_origins: Origins | None = _setting(
        "HTTP",
        None,
        "Origins whose web pages may send requests (CORS), divided by commas; * is all, and not set"
        " is none.",
    )

    insecure: bool = _setting("Security", False, "Allow plain text beyond loopback addresses.")
    tls_certificate: Path | None = _setting(
        "Security", None, "PEM file with the server's certificate, then the chain to its root."
    )
    tls_key: Path | None = _setting("Security", None, "PEM file with its private key.")
    tls_client_ca: Path | None = _setting(
        "Security", None, "PEM file with the authorities of client certificates (mutual TLS)."
    )
    token_file: Path | None = _setting(
        "Security", None, "File with the bearer tokens of callers, one a line."
    )

    max_message_bytes: MessageSize = _setting(
        "Limits", DEFAULT_LIMITS.message_bytes, "Maximum bytes of one request."
    )
    max_images: Count = _setting("Limits", DEFAULT_LIMITS.images, "Maximum images in one request.")
    max_boxes: Count = _setting(
        "Limits", DEFAULT_LIMITS.boxes, "Maximum boxes in one request, ignored ones included."
    )
    max_patches: Count = _setting(
        "Limits", DEFAULT_LIMITS.patches, "Maximum patches of all masks of a request."
    )
    max_feature_maps: Count = _setting(
        "Limits", DEFAULT_LIMITS.feature_maps, "Maximum feature maps in one request."
    )
    max_work: Work = _setting(
        "Limits",
        DEFAULT_LIMITS.work,
        "Maximum patches that the boxes of a request reach, counted for each box.",
    )
    max_in_flight: Count = _setting(
        "Limits",
        DEFAULT_LIMITS.requests_in_flight,
        "Maximum requests in flight in one worker, computing or queued.",
    )
    max_queue_bytes: Size = _setting(
        "Limits",
        DEFAULT_LIMITS.queue_bytes,
        "Maximum bytes of requests and answers in flight in one worker.",
    )
    max_streams: Count = _setting("Limits", 1024, "Maximum open streams in one worker.")
    max_caller_share: Share = _setting(
        "Limits",
        0.67,
        "Share of a worker's requests, bytes and streams for one token, or one connection.",
    )
    receive_timeout_seconds: Interval = _setting(
        "Limits", 30, "Seconds for a request's message to arrive before its call is cancelled."
    )
    send_timeout_seconds: Interval = _setting(
        "Limits", 60, "Seconds for a caller to read an answer before its call is cancelled."
    )

    max_streams_per_connection: Count = _setting(
        "Connections",
        DEFAULT_LIMITS.streams_per_connection,
        "Maximum concurrent calls on one connection.",
    )
    max_connection_age_seconds: Seconds = _setting(
        "Connections", 0, "Seconds until a connection is closed, to rebalance clients; 0 is never."
    )
    max_connection_age_grace_seconds: Seconds = _setting(
        "Connections", 30, "Seconds for requests in flight on a connection of that age."
    )
    keepalive_seconds: Interval = _setting(
        "Connections", 60, "Seconds without traffic before the server pings a client."
    )
    keepalive_timeout_seconds: Interval = _setting(
        "Connections", 20, "Seconds for a ping's answer before the connection is closed."
    )
    keepalive_min_client_seconds: Interval = _setting(
        "Connections", 10, "Minimum seconds between the pings of a client."
    )

    metrics_host: Host = _setting("Observing", "127.0.0.1", "Address of the Prometheus metrics.")
    metrics_port: Port | None = _setting(
        "Observing", None, "Port to serve metrics on; off if not set, 0 takes a free one."
    )
    metrics_tls: bool = _setting(
        "Observing", False, "Serve metrics over TLS with the server's certificate and client CA."
    )
    telemetry: bool = _setting(
        "Observing", False, "Send traces by OTLP, as the OTEL_… variables configure."
    )
    channelz: bool = _setting("Observing", False, "Serve channelz, gRPC's connection statistics.")

    batching: bool = _setting(
        "Batching", False, "On a GPU, compute requests that wait at the same time in one launch."
    )
    batch_window_milliseconds: Milliseconds = _setting(
        "Batching", 0, "Minimum milliseconds that a request waits for others if the GPU is busy."
    )
    batch_max_patches: Count = _setting("Batching", 1 << 23, "Maximum patches in one batch.")
    batch_max_boxes: Count = _setting("Batching", 1 << 16, "Maximum boxes in one batch.")

    @field_validator("*", mode="before")
    @classmethod
    def _refuse_what_would_be_taken(cls, value: Any, info: ValidationInfo) -> Any:
        # Pydantic takes true for 1, and an empty path for the folder that the server runs in.
        if isinstance(value, bool):
            if cls.model_fields[info.field_name or ""].annotation is not bool:
                raise ValueError("is not for true or false")
        elif isinstance(value, str) and (not value or "\0" in value):
            raise ValueError("is empty or holds a NUL")
        return value

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        if (self.tls_certificate is None) != (self.tls_key is None):
            given, missing = "tls_certificate", "tls_key"
            if self.tls_certificate is None:
                given, missing = missing, given
            raise InvalidRequest(given, f"needs {missing} too")
        if self.tls_client_ca is not None and self.tls_certificate is None:
            raise InvalidRequest("tls_client_ca", "needs tls_certificate and tls_key too")
        if self.metrics_tls and self.tls_certificate is None:
            raise InvalidRequest("metrics_tls", "needs tls_certificate and tls_key too")
        if self.http_origins is not None and self.http_port is None:
            raise InvalidRequest("http_origins", "needs http_port too")
        if is_unix(self.host) and self.http_port is not None:
            raise InvalidRequest("http_port", "needs a host with ports, not unix:")
        if is_unix(self.host) and self.workers not in (1, "auto"):
            raise InvalidRequest("workers", "cannot share a unix: host, must be 1 or auto")
        if self.tls_certificate is None and not self.insecure and not is_loopback(self.host):
            raise InvalidRequest(
                "host",
                f"{self.host} can be reached from other machines: set tls_certificate and tls_key,"
                " or insecure to serve plain text",
            )
        return self


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach the host."""
    if is_unix(host):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"
