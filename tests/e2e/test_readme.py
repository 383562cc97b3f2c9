"""What README and docs show runs as it stands, and what they point to is there."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from cass_client import CassClient
from cass_core.synthetic import street_scene
from tests.support.servers import ServerProcess

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
CLIENT = ROOT / "docs" / "client.md"
PAGES = [README, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").glob("*.md")]


def programs(page: Path) -> list[str]:
    return re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)


def commands(page: Path) -> list[list[str]]:
    """The page's indented lines, as a shell takes them apart."""
    lines = re.findall(
        r"^    (\S.*)$", re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL), re.M
    )
    return [shlex.split(line, comments=True) for line in lines]


def test_readme_is_short() -> None:
    assert len(README.read_text().splitlines()) <= 90


# docs/scaling.md is written by a benchmark, tables and all.
@pytest.mark.parametrize("page", [p for p in PAGES if p.name != "scaling.md"], ids=lambda p: p.name)
def test_lines_are_short(page: Path) -> None:
    long = [line for line in page.read_text().splitlines() if len(line) > 100]
    assert long == []


def test_training_loop() -> None:
    (program,) = programs(README)
    names: dict[str, Any] = {}
    exec(program, names)
    assert [loss.item() > 0 for loss in names["losses"]] == [True] * 3
    assert names["scorer"].weight.grad.abs().sum() > 0
    # 0.5 +- 0.01 of 640 pixels, 0.5 +- 0.05.
    torch.testing.assert_close(names["boxes"][0], torch.tensor([[313.6, 288.0, 326.4, 352.0]]))
    assert names["boxes"][1].shape == (0, 4)
    assert names["kept"].shape == (2, 2520)  # 0.3 of 80 x 80 + 40 x 40 + 20 x 20
    assert names["kept"].max() < 8400


def test_commands(tmp_path: Path) -> None:
    """On drawn scenes, in the folder that they name."""
    (tmp_path / "pictures").mkdir()
    coco: dict[str, list[Any]] = {"images": [], "annotations": [], "categories": []}
    coco["categories"].append({"id": 1, "name": "thing"})
    for number in (41, 42):
        scene = street_scene(number, image_size=(96, 160), boxes=5)
        Image.fromarray(scene.image).save(tmp_path / "pictures" / f"{number}.png")
        image = {"id": number, "file_name": f"{number}.png", "height": 96, "width": 160}
        coco["images"].append(image)
        for x1, y1, x2, y2 in scene.boxes.tolist():
            box = {"id": len(coco["annotations"]), "image_id": number, "category_id": 1}
            coco["annotations"].append({**box, "bbox": [x1, y1, x2 - x1, y2 - y1]})
    (tmp_path / "instances.json").write_text(json.dumps(coco))
    shown = [command for command in commands(README) if command[0] == "cass"]
    assert [command[1] for command in shown] == ["sheet", "plot"]
    for command in shown:
        done = subprocess.run(
            [sys.executable, "-m", "cass_cli", *command[1:]],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert (tmp_path / command[command.index("--out") + 1]).stat().st_size > 10_000


def test_installs_name_extras_that_exist() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    installs = [command for command in commands(README) if command[0] == "pip"]
    assert [command[1] for command in installs] == ["install"] * 3
    for command in installs:
        (extra,) = re.fullmatch(r"\.(?:\[(\w+)\])?", command[2]).groups()  # type: ignore[union-attr]
        assert extra is None or extra in project["optional-dependencies"]
    assert {command[0] for command in commands(README)} == {"cass", "pip"}


def test_targets_of_clients() -> None:
    shown = re.findall(r'CassClient\("([^"]+)"', README.read_text())
    assert shown == ["local:", "host:50051"]
    for target in shown:
        CassClient(target, fallback="local").close()


def test_speed_is_what_was_measured() -> None:
    """Of batches of 16 images."""
    found = json.loads((ROOT / "benchmarks" / "results" / "cpu.json").read_text())
    times = found["masks_microseconds_per_batch"]["stride 8"]
    audited, heatmaps, ours = (times[way] / 16 for way in ("audited", "heatmaps", "improved"))
    assert f"| {audited:,.0f} µs | {heatmaps:,.0f} µs | {ours:.1f} µs |" in README.read_text()


def test_client(
    server: ServerProcess,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    made, called, streamed = programs(CLIENT)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(made, names)  # no file is read before the first call
    assert names["client"].target.count(",") == 1
    exec(called.replace("localhost:50051", server.address), {})
    assert re.fullmatch(r"\(2, 23, 40\) 0\.\d+ \(2, 23, 40\)\n", capsys.readouterr().out)
    exec(streamed.replace("localhost:50051", server.address), {})
    assert re.fullmatch(r"[1-9]\d+ ms: total [1-9].*, compute 0\.\d+.*\n", capsys.readouterr().out)


def headings(page: Path) -> set[str]:
    """Their anchors, as GitHub makes them."""
    found = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in found}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)]+)\)", page.read_text()):
        if link.startswith("https://"):
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        assert not anchor or anchor in headings(target), link


def test_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for page in PAGES:
        if page.name in ("CHANGELOG.md", "performance.md"):  # what was run or removed
            continue
        for indented, quoted in set(
            re.findall(r"^    make ([a-z][a-z-]*)|`make ([a-z][a-z-]*)", page.read_text(), re.M)
        ):
            target = indented or quoted
            assert re.search(rf"^{target}:", makefile, re.MULTILINE), (page.name, target)
