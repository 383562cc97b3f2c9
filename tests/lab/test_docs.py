"""The commands of docs/pictures.md and docs/ablation.md."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from PIL import Image
from torch import nn
from typer.testing import CliRunner

from cass_lab.commands import ablate, register
from cass_lab.training.model import Predictor
from cass_lab.training.runs import Run
from tests.lab.support.drawn import SIZE

DOCS = Path(__file__).resolve().parents[2] / "docs"


def commands(page: str) -> list[list[str]]:
    text = (DOCS / page).read_text(encoding="utf-8").replace("\\\n", " ")
    return [shlex.split(line)[1:] for line in re.findall(r"^    (cass .*)$", text, re.M)]


@pytest.fixture
def app() -> typer.Typer:
    app = typer.Typer()
    register(app)
    return app


@pytest.mark.slow
@pytest.mark.timeout(100)
def test_pictures(
    app: typer.Typer, scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(scenes, "pictures")
    content = json.loads((scenes / "test.json").read_text(encoding="utf-8"))
    content["images"][1]["id"] = 42
    for annotation in content["annotations"]:
        if annotation["image_id"] == "s101":
            annotation["image_id"] = 42
    Path("test.json").write_text(json.dumps(content), encoding="utf-8")
    Path("out/models").mkdir(parents=True)
    model = Predictor(8)
    nn.init.normal_(model.score.weight)
    torch.save({"stride": 8, "predictor": model.state_dict()}, "out/models/X.pt")
    Path("out/runs.jsonl").write_text(json.dumps({"key": "X", "settings": {"size": SIZE}}) + "\n")
    shown = commands("pictures.md")
    assert [command[0] for command in shown] == ["plot", "plot", "sheet"]
    shapes = []
    for command in shown:
        done = CliRunner().invoke(app, command)
        assert done.exit_code == 0, done.exception
        if command[0] == "plot":
            with Image.open("42.png") as figure:
                shapes.append(figure.width / figure.height)
    assert shapes[1] > 1.2 * shapes[0]  # three panels across in place of two
    assert "improved" in Path("sheet.html").read_text(encoding="utf-8")


@pytest.mark.timeout(100)
def test_ablation(
    app: typer.Typer, scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All but the hours of training: what would run is what the page says of it."""
    asked: list[tuple[set[str], int, str]] = []

    def run_all(options: Any, runs: list[Run], *_: Any) -> None:
        asked.append(({r.variant.name for r in runs}, len(runs), runs[0].measure))
        raise typer.Exit

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(ablate, "run_all", run_all)
    for name in ("cones", "carla"):
        shutil.copytree(scenes, Path(name) / "images")
        for part in ("train", "test"):
            shutil.copy(scenes / f"{part}.json", f"{name}/{part}.json")
    for command in commands("ablation.md"):
        done = CliRunner().invoke(app, command)
        assert done.exit_code == 0, done.exception
    page = " ".join((DOCS / "ablation.md").read_text(encoding="utf-8").split())
    told = re.findall(r"of (\d+) variants in", page)
    assert [str(len(names)) for names, _, _ in asked] == told
    assert [count for names, count, _ in asked] == [3 * int(number) for number in told]
    assert [measure for _, _, measure in asked] == ["recall", "ap"] * 2
