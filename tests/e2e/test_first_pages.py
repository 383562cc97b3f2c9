"""What docs/start.md, docs/method.md and docs/training.md show runs as it stands."""

from __future__ import annotations

import importlib.util
import io
import re
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageChops

from tests.e2e.drawn_coco import write_coco
from tests.e2e.pages import ROOT, commands, page, programs
from tests.support.programs import ended
from tests.support.servers import ServerProcess

START = page("docs/start.md")


def printed(program: str) -> str:
    """What a program of a page prints."""
    told = io.StringIO()
    with redirect_stdout(told):
        exec(program, {})
    return told.getvalue()


def test_start(server: ServerProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    mask, picture, loss, remote = programs(START)
    outputs = re.findall(r"^```text\n(.*?)^```$", START, re.DOTALL | re.MULTILINE)
    assert [printed(mask), printed(loss)] == outputs
    # Half a cell from the box; the widths of the band are 0.6 (at least 1) and 1.2 cells.
    beside, above = np.exp(-(np.array([0.5, 0.5 / 1.2]) ** 2) / (2 * 0.75**2)).round(2)
    assert f"[0.   0.   {beside:.1f}  1. " in outputs[0]
    assert f" {above} {above} " in outputs[0]
    printed(picture)
    with Image.open("masks.png") as figure:
        assert figure.width > 2 * figure.height
    found = printed(remote.replace("localhost:50051", server.address))
    assert found == "(1, 8, 8) 1.0\n"


@pytest.mark.slow
def test_pictures_of_start(tmp_path: Path) -> None:
    """On drawn scenes, as the commands name them; test_readme.py runs the sheet."""
    write_coco(tmp_path / "instances.json", tmp_path / "pictures", (41, 42))
    plot, sheet = (command for command in commands(START) if command[1] in ("plot", "sheet"))
    assert sheet in commands(page("README.md"))
    assert ended("-m", "cass_cli", *plot[1:], cwd=tmp_path).returncode == 0
    with Image.open(tmp_path / plot[plot.index("--out") + 1]) as picture:
        assert picture.width > 640


def test_method() -> None:
    """Its program compares the formulas with the package by itself."""
    (program,) = programs(page("docs/method.md"))
    names: dict[str, Any] = {}
    exec(program, names)
    slow = np.array(names["slow"])
    assert slow.shape == (12, 20)
    assert 0 < slow.min(where=slow > 0, initial=1) < 0.5 < slow.max() == 1


def test_pictures_of_the_method(tmp_path: Path) -> None:
    """They are what the script draws."""
    spec = importlib.util.spec_from_file_location("method_pictures", ROOT / "docs" / "method.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.main(tmp_path)
    for name in ("method-masks.png", "method-losses.png"):
        with Image.open(ROOT / "docs" / name) as kept, Image.open(tmp_path / name) as drawn:
            assert kept.size == drawn.size
            difference = ImageChops.difference(kept.convert("L"), drawn.convert("L"))
            # Other versions of a library for fonts may draw a letter differently.
            assert np.asarray(difference).mean() < 2


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_training() -> None:
    (program,) = programs(page("docs/training.md"))
    recalls = [int(share) for share in re.findall(r"kept (\d+)%", printed(program))]
    assert len(recalls) == 3
    assert recalls[0] < 30
    assert recalls[-1] > 70
