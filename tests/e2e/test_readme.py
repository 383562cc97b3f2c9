"""The programs of README and docs run as they stand."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tests.support.servers import ServerProcess

README = Path(__file__).resolve().parents[2] / "README.md"
CLIENT = README.parent / "docs" / "client.md"


def programs(page: Path) -> list[str]:
    return re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)


PROGRAMS = programs(README)


def test_training_loop() -> None:
    names: dict[str, Any] = {}
    exec(PROGRAMS[0], names)
    assert names["loss"].item() > 0
    assert names["logits"].grad.abs().sum() > 0


def test_server(server: ServerProcess, capsys: pytest.CaptureFixture[str]) -> None:
    program = PROGRAMS[1].replace("localhost:50051", server.address)
    assert server.address in program
    assert len(program.strip().splitlines()) <= 12
    exec(program, {})
    printed = capsys.readouterr().out
    assert re.fullmatch(r"\(2, 23, 40\) 0\.\d+ \(2, 23, 40\)\n", printed)


def test_loader(server: ServerProcess, capsys: pytest.CaptureFixture[str]) -> None:
    program = PROGRAMS[2].replace("localhost:50051", server.address)
    assert server.address in program
    exec(program, {})
    shapes = "[torch.Size([2, 23, 40]), torch.Size([2, 46, 80])]"
    assert capsys.readouterr().out == f"torch.Size([2, 3, 736, 1280]) {shapes}\n" * 2


def test_client(
    server: ServerProcess,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    made, streamed = programs(CLIENT)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(made, names)  # no file is read before the first call
    assert names["client"].target.count(",") == 1
    exec(streamed.replace("localhost:50051", server.address), {})
    assert re.fullmatch(r"[1-9]\d+ ms: total [1-9].*, compute 0\.\d+.*\n", capsys.readouterr().out)


def test_every_program_is_tested() -> None:
    assert len(PROGRAMS) == 3


@pytest.mark.parametrize("page", [README, *(README.parent / "docs").glob("*.md")])
def test_links_exist(page: Path) -> None:
    for link in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        assert link.startswith("https://") or (page.parent / link).exists(), link


def test_targets_exist() -> None:
    text = README.read_text()
    makefile = (README.parent / "Makefile").read_text()
    for indented, quoted in set(
        re.findall(r"^    make ([a-z][a-z-]*)|`make ([a-z][a-z-]*)", text, re.MULTILINE)
    ):
        target = indented or quoted
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
