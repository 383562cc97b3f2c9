"""What README and docs show runs as it stands, and what they point to is there."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from cass_client import CassClient
from tests.e2e.drawn_coco import write_coco
from tests.e2e.pages import PAGES, ROOT, commands, page, programs
from tests.support.programs import printed
from tests.support.servers import ServerProcess

README = page("README.md")
EVERY_PAGE = [*PAGES, ROOT / "CHANGELOG.md"]


def test_readme_is_short() -> None:
    assert len(README.splitlines()) <= 90


# Those below docs/ablation are written by `cass ablate`.
@pytest.mark.parametrize(
    "path", [p for p in EVERY_PAGE if "ablation" not in p.parts], ids=lambda p: p.name
)
def test_lines_are_short(path: Path) -> None:
    """But rows of tables, which cannot be broken."""
    lines = path.read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if len(line) > 100 and not line.startswith("|")] == []


def test_training_loop() -> None:
    (program,) = programs(README)
    names: dict[str, Any] = {}
    exec(program, names)
    assert names["loss"].item() > 0
    assert names["scorer"].weight.grad.abs().sum() > 0
    # 0.5 +- 0.01 of 640 pixels, 0.5 +- 0.05.
    torch.testing.assert_close(names["boxes"][0], torch.tensor([[313.6, 288.0, 326.4, 352.0]]))
    assert names["boxes"][1].shape == (0, 4)
    assert names["kept"].shape == (2, 2520)  # 0.3 of 80 x 80 + 40 x 40 + 20 x 20
    assert names["kept"].max() < 8400


def test_commands(tmp_path: Path) -> None:
    """On drawn scenes, in the folder that they name."""
    write_coco(tmp_path / "instances.json", tmp_path / "pictures", (41, 42))
    shown = [command for command in commands(README) if command[0] == "cass"]
    assert [command[1] for command in shown] == ["playground", "sheet"]
    sheet = shown[1]
    printed("-m", "cass_cli", *sheet[1:], cwd=tmp_path)
    assert (tmp_path / sheet[sheet.index("--out") + 1]).stat().st_size > 10_000


def test_targets_of_clients() -> None:
    shown = re.findall(r'CassClient\("([^"]+)"', README)
    assert shown == ["local:", "host:50051"]
    for target in shown:
        CassClient(target, fallback="local").close()


def test_speed_is_what_was_measured() -> None:
    """Of batches of 16 images."""
    found = json.loads(page("benchmarks/results/cpu.json"))
    times = found["masks_microseconds_per_batch"]["stride 8"]
    audited, heatmaps, ours = (times[way] / 16 for way in ("audited", "heatmaps", "improved"))
    assert f"| {audited:,.0f} µs | {heatmaps:,.0f} µs | {ours:.1f} µs |" in README


def test_client(
    server: ServerProcess,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    made, called, streamed = programs(page("docs/client.md"))
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(made, names)  # no file is read before the first call
    assert names["client"].target.count(",") == 1
    exec(called.replace("localhost:50051", server.address), {})
    assert re.fullmatch(r"\(2, 23, 40\) 0\.\d+ \(2, 23, 40\)\n", capsys.readouterr().out)
    exec(streamed.replace("localhost:50051", server.address), {})
    assert re.fullmatch(r"[1-9]\d+ ms: total [1-9].*, compute 0\.\d+.*\n", capsys.readouterr().out)


def headings(path: Path) -> set[str]:
    """Their anchors, as GitHub makes them."""
    found = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in found}


@pytest.mark.parametrize("path", EVERY_PAGE, ids=lambda path: path.name)
def test_links_lead_somewhere(path: Path) -> None:
    for link in re.findall(r"\]\(([^)]+)\)", path.read_text(encoding="utf-8")):
        if link.startswith("https://"):
            continue
        name, _, anchor = link.partition("#")
        target = path.parent / name if name else path
        assert target.exists(), link
        assert not anchor or anchor in headings(target), link


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_targets_exist(path: Path) -> None:
    makefile = page("Makefile")
    if path.name != "performance.md":  # what was run
        for target in re.findall(r"`make ([a-z][a-z-]*)", path.read_text(encoding="utf-8")):
            assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_installs_are_of_a_checkout(path: Path) -> None:
    """Nothing is released, and another package could have the name."""
    assert not re.search(r"pip install ['\"]?cass", path.read_text(encoding="utf-8"))


def test_the_map_of_the_code_is_true() -> None:
    """Each file, folder and module that CONTRIBUTING.md names is there."""
    named = set(re.findall(r"`([\w./]+)`", page("CONTRIBUTING.md")))
    roots = [ROOT, *(ROOT / p for p in ("server/cass_server", "client/cass_client"))]
    for name in sorted(name for name in named if "/" in name and not name.startswith("..")):
        places = [root / f"{name}{end}" for root in roots for end in ("", ".py")]
        assert any(place.exists() for place in places), name
    for name in sorted(name for name in named if re.match(r"cass\w*\.\w", name)):
        if name not in ("cass.commands", "cass.example"):  # a group of entry points
            assert importlib.util.find_spec(name) is not None, name
