"""`make demo`, as its target runs it."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from tests.support.programs import printed

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
@pytest.mark.parametrize("real", [False, True])
def test_demo(real: bool, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    folder = tmp_path / "out [bold]"  # names are printed as they are
    arguments = ["--out", str(folder)]
    if real:
        data = request.getfixturevalue("shared") / "data" / "carla"
        arguments += ["--coco", str(data / "test.json"), "--images", str(data / "images")]
    told = printed(ROOT / "examples" / "demo.py", *arguments)
    assert "drained, exit code 0" in told
    assert "out [bold]" in " ".join(told.split())
    rows = [line for line in told.splitlines() if "stride" in line]
    assert len(rows) == 4
    if "on cpu" in told:
        assert all("identical" in row for row in rows)
    with Image.open(folder / "demo.png") as picture:
        assert picture.width > 1000
