"""Settings as people write them: other encodings, headings, hosts as URLs, empty texts."""

from __future__ import annotations

from pathlib import Path

import pytest

from cass_server.config.sources import load_settings
from tests.server.config.test_settings import refusal

HOST = "must be an IP address (no brackets), a host name or unix:PATH"


def written(folder: Path, content: bytes) -> Path:
    path = folder / "cass.toml"
    path.write_bytes(content)
    return path


def test_a_byte_order_mark_is_skipped(tmp_path: Path) -> None:
    config = written(tmp_path, b"\xef\xbb\xbfport = 7\r\n")
    assert load_settings({}, config).settings.port == 7


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32-le", "latin-1"])
def test_other_encodings_are_named(encoding: str, tmp_path: Path) -> None:
    config = written(tmp_path, "# caf\u00e9\nport = 7\n".encode(encoding))
    reason = refusal(config=config)
    if encoding == "utf-32-le":  # whose zeros are valid UTF-8, but no TOML
        assert reason.startswith(f"--config (command line): {config} is not ")
    else:
        assert reason == f"--config (command line): {config} is not UTF-8 text"


def test_settings_under_a_heading(tmp_path: Path) -> None:
    config = written(tmp_path, b"[server]\nport = 7\n")
    assert refusal(config=config) == f"server ({config}): is no setting; settings have no headings"


def test_what_nests_too_deeply(tmp_path: Path) -> None:
    config = written(tmp_path, b"port = " + b"[" * 100_000)
    assert refusal(config=config).startswith(f"--config (command line): {config} is not TOML: ")


@pytest.mark.parametrize("text", ['"no"', '"false"', '"off"', "false"])
def test_text_is_no_truth_by_itself(text: str, tmp_path: Path) -> None:
    """Python takes any text for true."""
    config = written(tmp_path, f"insecure = {text}\nbatching = {text}\n".encode())
    settings = load_settings({}, config).settings
    assert (settings.insecure, settings.batching) == (False, False)


@pytest.mark.parametrize("text", ['"maybe"', '""', "2", "[]"])
def test_what_is_neither_true_nor_false(text: str, tmp_path: Path) -> None:
    config = written(tmp_path, f"insecure = {text}\n".encode())
    assert refusal(config=config).startswith(f"insecure ({config}): must be true or false, got ")


@pytest.mark.parametrize("name", ["token_file", "tls_key", "tls_certificate", "tls_client_ca"])
@pytest.mark.parametrize("text", ["", "a\0b"])
def test_a_path_that_names_no_file(name: str, text: str) -> None:
    option = f"--{name.replace('_', '-')} (command line)"
    assert refusal({name: text}) == f"{option}: must be a path, got {text!r}"


@pytest.mark.parametrize(
    ("given", "hint"),
    [
        ("localhost:50051", "localhost, and 50051 for port"),
        ("http://localhost", "localhost"),
        ("grpc://10.0.0.5:443/", "10.0.0.5, and 443 for port"),
        ("[::1]", "::1"),
        ("[::1]:50051", "::1, and 50051 for port"),
    ],
)
def test_a_host_in_another_form(given: str, hint: str) -> None:
    assert (
        refusal({"host": given})
        == f"--host (command line): {HOST}, got {given} (did you mean {hint}?)"
    )


def test_a_host_of_metrics_with_its_port() -> None:
    assert refusal({"metrics_host": "0.0.0.0:9090"}).endswith(
        "got 0.0.0.0:9090 (did you mean 0.0.0.0, and 9090 for metrics_port?)"
    )


@pytest.mark.parametrize("given", ["a b", "local host:1", "http://", ":50051"])
def test_what_is_no_host_in_any_form(given: str) -> None:
    assert refusal({"host": given}) == f"--host (command line): {HOST}, got {given}"
