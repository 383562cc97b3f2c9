"""Bearer tokens: what a file may hold, which callers are allowed, and files that are replaced."""

from __future__ import annotations

import hashlib
import logging
import subprocess
import tempfile
from pathlib import Path

import pytest

from cass_core.errors import CassError
from cass_server.security.tokens import TokenFile
from tests.server.support.certificates import put

TOKEN = "correct-horse-battery-staple"
OTHER = "an0ther.token~of+24/chars=="


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return put(tmp_path / "tokens", TOKEN.encode())


def bearer(token: str) -> list[tuple[str, str | bytes]]:
    """The metadata of a call with this token."""
    return [("user-agent", "test"), ("authorization", f"Bearer {token}")]


def test_a_line_is_a_token_or_its_hash(path: Path) -> None:
    digest = hashlib.sha256(OTHER.encode()).hexdigest()
    put(path, f"# of the loaders\n\n  {TOKEN}  \r\n\tsha256:{digest.upper()}\n".encode())
    tokens = TokenFile(path)
    assert tokens.allows(bearer(TOKEN))
    assert tokens.allows(bearer(OTHER))
    assert not tokens.allows(bearer("# of the loaders"))
    assert not tokens.allows(bearer(digest))
    assert not tokens.allows(bearer(f"sha256:{digest}"))
    assert not tokens.allows(bearer(""))


def test_the_documented_command_makes_a_line(path: Path) -> None:
    command = next(line for line in (TokenFile.__doc__ or "").splitlines() if "sha256sum" in line)
    made = subprocess.run(
        ["sh", "-c", command], env={"TOKEN": TOKEN}, capture_output=True, timeout=20, check=True
    )
    assert made.stdout.startswith(b"sha256:")
    put(path, made.stdout)
    assert TokenFile(path).allows(bearer(TOKEN))


@pytest.mark.parametrize(
    "metadata",
    [
        [("authorization", f"Bearer {TOKEN}")],
        [("authorization", f"bearer {TOKEN}")],
        [("authorization", f"BEARER  {TOKEN} ")],
        [("x-authorization", "Bearer no"), ("authorization", f"Bearer {TOKEN}")],
    ],
)
def test_allowed(path: Path, metadata: list[tuple[str, str | bytes]]) -> None:
    assert TokenFile(path).allows(metadata)


@pytest.mark.parametrize(
    "metadata",
    [
        [],
        [("authorization", "")],
        [("authorization", "Bearer")],
        [("authorization", "Bearer ")],
        [("authorization", TOKEN)],
        [("authorization", f"Basic {TOKEN}")],
        [("authorization", f"Bearer{TOKEN}")],
        [("authorization", f"Bearer {TOKEN[:-1]}")],
        [("authorization", f"Bearer {TOKEN}x")],
        [("authorization", f"Bearer {TOKEN.upper()}")],
        [("authorization", f"Bearer {TOKEN} {TOKEN}")],
        [("authorization", f"Bearer {TOKEN}ß")],
        [("authorization", f"Bearer {TOKEN}".encode())],
        [("authorization-bin", f"Bearer {TOKEN}".encode())],
        [("authorization", f"Bearer {TOKEN}"), ("authorization", f"Bearer {TOKEN}")],
        [("authorization", f"Bearer {TOKEN}"), ("authorization", f"Bearer {OTHER}")],
        [("authorization", f"Bearer {OTHER}"), ("authorization", f"Bearer {TOKEN}")],
    ],
)
def test_refused(path: Path, metadata: list[tuple[str, str | bytes]]) -> None:
    assert not TokenFile(path).allows(metadata)


def test_no_plain_token_is_kept(path: Path) -> None:
    assert TOKEN not in repr(vars(TokenFile(path)))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"\xff\xfe", "is not UTF-8 text"),
        (b"#\nsecret-15-chars", "line 2: a token has 16 characters or more"),
        (b"secret of a few words", "line 1: a token is ASCII without spaces"),
        ("secret-of-umläuten".encode(), "line 1: a token is ASCII without spaces"),
        (b"sha256:secret", "line 1: is not sha256: and 64 hexadecimal digits"),
        (b"sha256: " + b"0" * 64, "line 1: is not sha256: and 64 hexadecimal digits"),
        (b"sha256:" + b"0" * 65, "line 1: is not sha256: and 64 hexadecimal digits"),
    ],
)
def test_errors_at_the_start_name_the_line_and_never_the_token(
    path: Path, content: bytes, reason: str
) -> None:
    put(path, content)
    with pytest.raises(CassError) as raised:
        TokenFile(path)
    assert str(raised.value) == f"token_file {path}: {reason}"


def test_the_start_needs_a_file_to_read(path: Path, tmp_path: Path) -> None:
    for unreadable in (tmp_path / "missing", tmp_path):
        with pytest.raises(CassError, match=f"^token_file {unreadable}: cannot be read: "):
            TokenFile(unreadable)


@pytest.mark.parametrize("content", [b"", b"\n# nothing but this\n"])
def test_a_file_without_tokens_allows_nobody(
    path: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """At the start, too: a server that is started again must not fail by what revoked all."""
    tokens = TokenFile(path)
    put(path, content)
    assert tokens.file.reload()
    for revoked in (tokens, TokenFile(path)):
        assert not revoked.allows(bearer(TOKEN))
        assert not revoked.allows(bearer(""))
        assert not revoked.file.problem
    event = "token file holds no token, all callers are refused"
    assert [r.message for r in caplog.records if r.levelno == logging.WARNING] == [event] * 2


def test_a_changed_file_counts_once_it_is_read_again(path: Path) -> None:
    tokens = TokenFile(path)
    put(path, f"{TOKEN}\n{OTHER}".encode())
    assert not tokens.allows(bearer(OTHER))
    assert tokens.file.reload()
    assert tokens.allows(bearer(OTHER))
    assert tokens.allows(bearer(TOKEN))
    put(path, OTHER.encode())
    assert tokens.file.reload()
    assert not tokens.allows(bearer(TOKEN))
    assert tokens.allows(bearer(OTHER))


def test_a_file_that_cannot_be_used_leaves_the_old_tokens(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """And its reason is logged once, without what it holds."""
    tokens = TokenFile(path)
    put(path, b"short-secret")
    reason = f"token_file {path}: line 1: a token has 16 characters or more"
    for _ in range(3):
        assert not tokens.file.reload()
        assert tokens.allows(bearer(TOKEN))
        assert not tokens.allows(bearer("short-secret"))
        assert tokens.file.problem == reason
    (record,) = caplog.records
    assert (record.levelno, vars(record)["reason"]) == (logging.ERROR, reason)
    assert "short-secret" not in caplog.text
    put(path, OTHER.encode())
    assert tokens.file.reload()
    assert not tokens.file.problem
    assert tokens.allows(bearer(OTHER))
    assert not tokens.allows(bearer(TOKEN))


@pytest.mark.parametrize(
    ("content", "mode", "is_warned"),
    [
        (TOKEN, 0o600, False),
        (TOKEN, 0o640, False),
        (TOKEN, 0o644, True),
        (TOKEN, 0o602, True),
        (f"sha256:{'0' * 64}", 0o644, False),
        (f"sha256:{'0' * 64}", 0o606, True),
    ],
)
def test_a_file_that_every_user_may_read(
    content: str, mode: int, is_warned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        folder = Path(name)
        folder.chmod(0o755)
        path = folder / "tokens"
        path.write_text(content)
        path.chmod(mode)
        TokenFile(path)
        assert caplog.messages == ["secret open to every user"] * is_warned
        caplog.clear()
        folder.chmod(0o700)
        TokenFile(path)
        assert caplog.messages == []
