"""The README's programs run as they stand."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tests.servers import ServerProcess

README = Path(__file__).resolve().parents[2] / "README.md"
PROGRAMS = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)


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


def test_every_program_is_tested() -> None:
    assert len(PROGRAMS) == 2


def test_links_and_targets_exist() -> None:
    text = README.read_text()
    for link in re.findall(r"\]\(([^)#]+)\)", text):
        assert link.startswith("https://") or (README.parent / link).exists(), link
    makefile = (README.parent / "Makefile").read_text()
    for indented, quoted in set(
        re.findall(r"^    make ([a-z][a-z-]*)|`make ([a-z][a-z-]*)", text, re.MULTILINE)
    ):
        target = indented or quoted
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
