"""The settings: their sources and order, what is refused and how, and what is printed."""

from __future__ import annotations

import os
import pickle
import tomllib
from pathlib import Path
from typing import Any

import pydantic
import pytest

from cass_server.config.reference import settings_table
from cass_server.config.settings import Settings
from cass_server.config.sources import LoadedSettings, SettingsError, load_settings


@pytest.fixture(autouse=True)
def _no_settings_around(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.upper().startswith("CASS_"):
            monkeypatch.delenv(name)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """The path of a file that a test may write."""
    return tmp_path / "cass.toml"


def refusal(command_line: dict[str, Any] | None = None, config: Path | None = None) -> str:
    with pytest.raises(SettingsError) as caught:
        load_settings(command_line or {}, config)
    return str(caught.value)


def comments(loaded: LoadedSettings) -> dict[str, str]:
    """The comment of each line of the printed settings, by what stands before it."""
    lines = (line.split("  # ") for line in loaded.toml().splitlines())
    return {parts[0]: parts[1] for parts in lines if len(parts) == 2}


def test_defaults() -> None:
    assert Settings().model_dump() == {
        "host": "127.0.0.1",
        "port": 50051,
        "device": "auto",
        "workers": 1,
        "compute_threads": "auto",
        "open_inference": True,
        "drain_seconds": 30,
        "launch_timeout_seconds": 60.0,
        "log_level": "info",
        "http_port": None,
        "http_origins": None,
        "insecure": False,
        "tls_certificate": None,
        "tls_key": None,
        "tls_client_ca": None,
        "token_file": None,
        "max_message_bytes": 67_108_864,
        "max_images": 4_096,
        "max_boxes": 262_144,
        "max_patches": 16_777_216,
        "max_work": 5 << 30,
        "max_feature_maps": 16,
        "max_in_flight": 24,
        "max_queue_bytes": 536_870_912,
        "max_streams": 1_024,
        "max_caller_share": 0.67,
        "receive_timeout_seconds": 30,
        "send_timeout_seconds": 60,
        "max_streams_per_connection": 16,
        "max_connection_age_seconds": 0,
        "max_connection_age_grace_seconds": 30,
        "keepalive_seconds": 60,
        "keepalive_timeout_seconds": 20,
        "keepalive_min_client_seconds": 10,
        "metrics_host": "127.0.0.1",
        "metrics_port": None,
        "metrics_tls": False,
        "telemetry": False,
        "channelz": False,
        "batching": False,
        "batch_window_milliseconds": 0,
        "batch_max_patches": 8_388_608,
        "batch_max_boxes": 65_536,
    }


def test_the_first_source_that_has_it_counts(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And what a later one has may be wrong."""
    config.write_text("port = 70000\nworkers = 1\nmax_images = 1\n")
    monkeypatch.setenv("CASS_PORT", "x")
    monkeypatch.setenv("CASS_WORKERS", "auto")
    loaded = load_settings({"port": "3", "workers": None}, config)
    ours = loaded.settings
    assert (ours.port, ours.workers, ours.max_images, ours.max_boxes) == (3, "auto", 1, 262_144)
    printed = comments(loaded)
    assert printed["port = 3"] == "--port (command line)"
    assert printed['workers = "auto"'] == "CASS_WORKERS (environment)"
    assert printed["max_images = 1"] == f"max_images ({config})"
    assert printed["max_boxes = 262144"] == "default"
    assert printed["# tls_key is not set"] == "default"


def test_the_environment_may_name_the_file(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config.write_text("port = 1\n")
    monkeypatch.setenv("CASS_CONFIG", str(config))
    assert load_settings({}).settings.port == 1
    other = tmp_path / "other.toml"
    other.write_text("port = 2\n")
    assert load_settings({}, other).settings.port == 2


def test_empty_variables_are_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CASS_PORT", "")
    monkeypatch.setenv("CASS_TLS_KEY", "")
    monkeypatch.setenv("CASS_CONFIG", "")
    assert load_settings({}).settings == Settings()


def test_what_is_printed_gives_the_same_settings(config: Path) -> None:
    changed = {
        "host": "::",
        "insecure": True,
        "workers": "auto",
        "drain_seconds": "0.1",
        "token_file": 'a "quoted" näme 𝄞\\',
        "max_message_bytes": "1MiB",
        "metrics_port": "0",
    }
    loaded = load_settings(changed)
    config.write_text(loaded.toml(), "utf-8")
    toml = tomllib.loads(loaded.toml())
    assert toml["max_message_bytes"] == 1_048_576
    assert (toml["metrics_port"], toml["insecure"], toml["drain_seconds"]) == (
        0,
        True,
        0.1,
    )
    assert load_settings({}, config).settings == loaded.settings
    assert loaded.settings != Settings()


PORT = "must be a whole number from 0 to 65535"
SECONDS = "must be a number from 0.001 to 2147483"
HOST = "must be an IP address (no brackets), a host name or unix:PATH"


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("port", "70000", PORT),
        ("port", "-1", PORT),
        ("workers", "0", "must be a whole number from 1 to 1024 or auto"),
        ("compute_threads", "0", "must be a whole number from 1 to 1024 or auto"),
        ("max_streams", "0", "must be a whole number from 1 to 2147483647"),
        ("receive_timeout_seconds", "0", SECONDS),
        ("send_timeout_seconds", "inf", SECONDS),
        ("keepalive_seconds", "0", SECONDS),
        ("drain_seconds", "nan", "must be a number from 0 to 2147483"),
        ("device", "gpu", "must be auto, cpu, cuda or cuda:N"),
        ("device", "cuda:", "must be auto, cpu, cuda or cuda:N"),
        ("log_level", "loud", "must be debug, info, warning or error"),
        ("insecure", "maybe", "must be true or false"),
        (
            "max_message_bytes",
            "2GiB",
            "must be a number of bytes (as in 65536 or 64KiB) from 1 to 2147483647",
        ),
        ("host", "unix:", HOST),
        ("host", "::1:50051:", HOST),
        ("metrics_host", "unix:/x", "must be an IP address (no brackets) or a host name"),
    ],
)
def test_a_wrong_value_is_reported_with_its_source(
    name: str, value: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    reason = f"{expected}, got {value}"
    assert refusal({name: value}) == f"--{name.replace('_', '-')} (command line): {reason}"
    monkeypatch.setenv(f"CASS_{name.upper()}", value)
    assert refusal() == f"CASS_{name.upper()} (environment): {reason}"


@pytest.mark.parametrize(
    ("value", "got"),
    [
        ("x\ny", "'x\\ny'"),
        (
            "tcp://10.0.0.1:50051",
            "tcp://10.0.0.1:50051 (Kubernetes sets it for a Service of that name: set"
            " enableServiceLinks to false)",
        ),
    ],
)
def test_a_wrong_value_is_shown_in_one_line(value: str, got: str) -> None:
    assert refusal({"port": value}) == f"--port (command line): {PORT}, got {got}"


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("port = 70000", f"port ({{}}): {PORT}, got 70000"),
        ("port = true", f"port ({{}}): {PORT}, got true"),
        ("metrics_port = true", f"metrics_port ({{}}): {PORT}, got true"),
        ("port = 1.5", f"port ({{}}): {PORT}, got 1.5"),
        ("host = 5", f"host ({{}}): {HOST}, got 5"),
        ("prot = 1", "prot ({}): is no setting; did you mean port?"),
        ("drain-seconds = 1", "drain-seconds ({}): is no setting; did you mean drain_seconds?"),
        ("[server]\nport = 1", "server ({}): is no setting"),
        ("config = 'x'", "config ({}): is no setting"),
        ("port = ", "--config (command line): {} is not TOML: Invalid value (at end of document)"),
        ("host = '\udcff'", "--config (command line): {} is not UTF-8 text"),
    ],
)
def test_a_wrong_line_of_a_file_is_reported_with_it(line: str, reason: str, config: Path) -> None:
    config.write_bytes(line.encode("utf-8", "surrogateescape"))
    (error,) = refusal(config=config).splitlines()
    assert error.startswith(reason.format(config))


def test_a_file_that_is_not_there(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reason = f"cannot read {config}: No such file or directory"
    assert refusal(config=config) == f"--config (command line): {reason}"
    monkeypatch.setenv("CASS_CONFIG", str(config))
    assert refusal() == f"CASS_CONFIG (environment): {reason}"


def test_every_fault_has_a_line(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CASS_WORKERS", "0")
    config.write_text("max_boxes = 0\n")
    assert refusal({"port": "x"}, config).splitlines() == [
        "--port (command line): must be a whole number from 0 to 65535, got x",
        "CASS_WORKERS (environment): must be a whole number from 1 to 1024 or auto, got 0",
        f"max_boxes ({config}): must be a whole number from 1 to 2147483647, got 0",
    ]


@pytest.mark.parametrize(
    ("variable", "meant"),
    [
        ("CASS_TOKEN_FLE", "CASS_TOKEN_FILE"),
        ("CASS_AUTH_TOKEN_FILE", "CASS_TOKEN_FILE"),
        ("CASS_TLS_CERTIFCATE", "CASS_TLS_CERTIFICATE"),
        ("CASS_WORKER", "CASS_WORKERS"),
        ("CASS_CONFG", "CASS_CONFIG"),
        ("CASS_TIMEOUT_SECONDS", "CASS_SEND_TIMEOUT_SECONDS"),
    ],
)
def test_a_variable_that_is_nearly_a_setting_is_refused(
    variable: str, meant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, "x")
    assert refusal() == f"{variable} (environment): is no setting; did you mean {meant}?"


@pytest.mark.parametrize(
    "variable",
    [
        # What Kubernetes sets for a Service named cass, beside CASS_PORT.
        "CASS_SERVICE_HOST",
        "CASS_SERVICE_PORT",
        "CASS_SERVICE_PORT_GRPC",
        "CASS_PORT_50051_TCP",
        "CASS_PORT_50051_TCP_ADDR",
        "CASS_PORT_50051_TCP_PORT",
        "CASS_PORT_50051_TCP_PROTO",
        # What a supervisor sets for its workers.
        "CASS_WORKER_CHANNEL",
        "CASS_WORKER_INDEX",
        "CASS_WORKER_PORT",
        # What a client takes or might take.
        "CASS_RAY_LISTS",
        "CASS_ADDRESS",
        "CASS_TARGET",
        "CASS_TIMEOUT",
        "CASS_TOKEN",
        "CASS_TLS_CA",
    ],
)
def test_other_variables_are_passed_over(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, "x")
    loaded = load_settings({})
    assert loaded.settings == Settings()
    assert loaded.foreign == (variable,)
    assert f"# environment {variable} is no setting\n" in loaded.toml()


TLS = {"tls_certificate": "c.pem", "tls_key": "k.pem"}


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "127.8.7.6", "::1", "localhost", "LocalHost", "unix:/run/cass.sock"]
)
def test_loopback_needs_nothing(host: str) -> None:
    assert Settings(host=host).host == host


@pytest.mark.parametrize(
    "host", ["0.0.0.0", "::", "10.0.0.1", "example.org", "127.1", "localhost.example.org"]
)
def test_plain_text_beyond_loopback_has_to_be_asked_for(host: str) -> None:
    assert refusal({"host": host}) == (
        f"--host (command line): {host} can be reached from other machines: set tls_certificate and"
        " tls_key, or insecure to serve plain text"
    )
    assert load_settings({"host": host, "insecure": True}).settings.host == host
    assert load_settings({"host": host, **TLS}).settings.host == host


@pytest.mark.parametrize(
    ("given", "needed"),
    [
        ({"tls_key": "k.pem"}, "tls_certificate"),
        ({"tls_certificate": "c.pem"}, "tls_key"),
        ({"tls_client_ca": "a.pem"}, "tls_certificate and tls_key"),
    ],
)
def test_tls_settings_go_together(given: dict[str, str], needed: str) -> None:
    (option,) = (f"--{name.replace('_', '-')}" for name in given)
    assert refusal(given) == f"{option} (command line): needs {needed} too"
    ours = load_settings({**TLS, **given}).settings
    assert (ours.tls_certificate, ours.tls_key) == (Path("c.pem"), Path("k.pem"))


def test_settings_are_frozen_and_travel() -> None:
    ours = Settings(port=0, max_message_bytes="1MiB", tls_certificate="c.pem", tls_key="k.pem")
    with pytest.raises(pydantic.ValidationError, match="frozen"):
        ours.port = 1
    assert pickle.loads(pickle.dumps(ours)) == ours
    assert Settings.model_validate_json(ours.model_dump_json()) == ours
    with pytest.raises(pydantic.ValidationError, match="prot"):
        Settings(prot=1)


def test_table() -> None:
    """Defaults in the table are read back as they are in force."""
    table = list(settings_table())
    assert [setting.name for setting in table] == list(Settings.model_fields)
    port = next(setting for setting in table if setting.name == "metrics_port")
    assert (port.option, port.variable) == ("--metrics-port", "CASS_METRICS_PORT")
    assert (port.type, port.default) == ("a whole number from 0 to 65535", "")
    groups = [setting.group for setting in table]
    order = ["Server", "HTTP", "Security", "Limits", "Connections", "Observing", "Batching"]
    assert sorted(set(groups), key=groups.index) == order
    assert all(setting.help.endswith(".") for setting in table)
    written = {setting.name: setting.default or None for setting in table}
    assert Settings(**written) == Settings()
