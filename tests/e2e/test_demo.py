"""`make demo`, as its target runs it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("real", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_demo(real: bool, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    arguments = ["--out", str(tmp_path)]
    if real:
        data = request.getfixturevalue("shared") / "data" / "carla"
        arguments += ["--coco", str(data / "test.json"), "--images", str(data / "images")]
    done = subprocess.run(
        [sys.executable, ROOT / "examples" / "demo.py", *arguments],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "drained, exit code 0" in done.stdout
    rows = [line for line in done.stdout.splitlines() if "stride" in line]
    assert len(rows) == 4
    if "on cpu" in done.stdout:
        assert all("identical" in row for row in rows)
    with Image.open(tmp_path / "demo.png") as picture:
        assert picture.width > 1000
