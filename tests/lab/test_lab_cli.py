"""`cass ablate` and `cass tune` as a user types them, killed on the way too."""

from __future__ import annotations

import dataclasses
import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner, Result

from cass_core import CassError, InvalidRequest
from cass_lab.commands import register
from cass_lab.data.dataset import Dataset
from cass_lab.scoring import load_trained
from cass_lab.training.runs import Run, Store, carry_out
from cass_lab.training.train import Recipe
from cass_lab.training.variants import VARIANTS
from cass_lab.training.workers import run_all

EPOCHS = 4


def arguments_of(scenes: Path, name: str, *more: str | Path) -> list[str]:
    files = ["--train", scenes / "train.json", "--test", scenes / "test.json", "--images", scenes]
    return [*map(str, [name, *files, "--size", "160x96", "--batch-size", "4", *more])]


def cass(scenes: Path, name: str, *more: str | Path) -> Result:
    """The command in this process, which has torch already; trainings have their own."""
    app = typer.Typer()
    register(app)
    return CliRunner().invoke(app, arguments_of(scenes, name, *more))


def records(out: Path) -> list[dict[str, Any]]:
    lines = (out / "runs.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


@pytest.mark.timeout(200)
@pytest.mark.slow
def test_killed_and_resumed(scenes: Path, data: tuple[Dataset, Dataset], tmp_path: Path) -> None:
    out = tmp_path / "out"
    options = ["--variant", "improved", "--seeds", "2", "--epochs", str(EPOCHS), "--out", out]
    command = [sys.executable, "-m", "cass_cli", *arguments_of(scenes, "ablate", *options)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 100
        while not list((out / "checkpoints").glob("*.pt")):  # there is one between two epochs
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.002)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait(timeout=20)
    assert not (out / "recall.md").exists()
    # What a process leaves that was killed while it wrote a line.
    torn = '{"key": "12'
    with (out / "runs.jsonl").open("a") as file:
        file.write(torn)

    assert cass(scenes, "ablate", *options, "--jobs", "2").exit_code == 0
    lines = (out / "runs.jsonl").read_text().splitlines()
    assert lines.count(torn) == 1
    found = {record["key"]: record for record in map(json.loads, set(lines) - {torn})}
    assert len(found) == len(lines) - 1 == 4
    assert not list((out / "checkpoints").glob("*.pt"))
    recipe = Recipe(EPOCHS, 4, 5e-3, "cpu")
    for name in ("baseline", "improved"):
        for seed in (0, 1):
            run = Run(VARIANTS[name], "recall", seed, 8, recipe)
            whole = carry_out(run, *data, Store(tmp_path / "whole"))
            assert found[whole["key"]]["results"] == whole["results"]

    models = list((out / "models").iterdir())
    assert {load_trained(path, 8).image_size for path in models} == {(96, 160)}

    # A third call has nothing left to do but the report.
    done = cass(scenes, "ablate", *options)
    assert "20/20" in done.stderr
    assert (out / "runs.jsonl").read_text().splitlines() == lines
    assert "4 runs, 4 of them done before\n" in done.stderr
    report = (out / "recall.md").read_text(encoding="utf-8")
    table, _, paths = done.stdout.partition(str(out / "recall.md"))
    assert [line.split()[0] for line in table.splitlines()] == ["variant", "baseline", "improved"]
    for line in table.splitlines()[1:]:  # recall at 10 %, as the report has it
        name, recall = line.split()[:2]
        assert re.search(rf"\| {name} \| [^|]+ \| {re.escape(recall)} ± ", report)
    assert str(out / "models") in paths
    assert sorted(path.name.rpartition(".")[0].rpartition(".")[0] for path in models) == [
        f"{name}.recall.seed{seed}" for name in ("baseline", "improved") for seed in (0, 1)
    ]
    for text in ("| baseline |", "| improved |", "## What changes in the target itself"):
        assert text in report
    for picture in ("recall.png", "differences.png"):
        assert f"({picture})" in report
        assert (out / picture).read_bytes().startswith(b"\x89PNG")


@pytest.mark.timeout(200)
@pytest.mark.slow
def test_stopped(scenes: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    options = ["--variant", "improved", "--seeds", "4", "--epochs", "500", "--jobs", "2"]
    command = [sys.executable, "-m", "cass_cli", *arguments_of(scenes, "ablate", *options)]
    process = subprocess.Popen([*command, "--out", out], stderr=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + 100
        while not list((out / "checkpoints").glob("*.pt")):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.002)
        process.terminate()
        _, errors = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 128 + signal.SIGTERM
    assert errors.splitlines()[-1] == (
        f"cass: stopped by SIGTERM; the same command goes on with what is in {out}"
    )
    assert "Traceback" not in errors
    assert not list(out.rglob("*.part"))


@pytest.mark.timeout(100)
@pytest.mark.slow
def test_ap(scenes: Path, tmp_path: Path) -> None:
    options = ["--variant", "improved", "--seeds", "1", "--epochs", "1", "--measures", "ap"]
    assert cass(scenes, "ablate", *options, "--out", tmp_path).exit_code == 0
    found = records(tmp_path)
    assert [record["settings"]["measure"] for record in found] == ["ap"] * 2
    assert set(found[0]["results"]["ap"]) == {"0.3", "0.5", "1.0"}
    assert "### AP_elongated" in (tmp_path / "ap.md").read_text()
    assert (tmp_path / "ap.png").exists()
    assert "NaN" not in (tmp_path / "runs.jsonl").read_text()


@pytest.mark.slow
@pytest.mark.timeout(100)
def test_tune(scenes: Path, tmp_path: Path) -> None:
    # Half as high: that is told of.
    options = ["--choice", "kind=focal,bce", "--choice", "alpha=2", "--seeds", "1", "--out"]
    options += [str(tmp_path), "--size", "160x48", "--jobs", "2", "--limit", "8"]
    done = cass(scenes, "tune", *options, "--epochs", "1")
    assert re.search(r"\n2 runs, 0 of them done before; about \d+ s with --jobs 2\n", done.stderr)
    assert "--size changes width : height of a picture by 100 %" in done.stderr
    assert done.stdout.strip() == str(tmp_path / "tune.md")
    rows = (tmp_path / "tune.md").read_text().splitlines()
    assert rows[0] == "| kind | alpha | area, % |"
    assert sorted(row.rsplit("|", 2)[0] for row in rows[2:]) == ["| bce | 2 ", "| focal | 2 "]
    areas = [float(row.split("|")[3]) for row in rows[2:]]
    assert areas == sorted(areas, reverse=True)
    measured = [record["results"]["groups"]["all"]["area"] for record in records(tmp_path)]
    assert areas == pytest.approx(sorted((100 * area for area in measured), reverse=True), abs=0.06)

    # The same trials of other trainings are others.
    assert cass(scenes, "tune", *options, "--epochs", "2", "--jobs", "1").exit_code == 0
    epochs = [record["settings"]["epochs"] for record in records(tmp_path)]
    assert epochs == [1, 1, 2, 2]
    assert (tmp_path / "tune.md").read_text().splitlines() != rows


@pytest.mark.timeout(100)
def test_a_dead_worker_is_reported(scenes: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "checkpoints").write_text("a file where the workers need a folder")
    done = cass(scenes, "ablate", "--seeds", "1", "--out", out)
    assert isinstance(done.exception, CassError)
    assert "a training process has died" in str(done.exception)


@pytest.mark.timeout(100)
def test_a_workers_error_is_shown(
    data: tuple[Dataset, Dataset], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    # An end of file that is none of the connection's: the decoded pictures are gone.
    (tmp_path / "empty.npy").touch()
    torn = dataclasses.replace(data[0], pixels_path=tmp_path / "empty.npy")
    run = Run(VARIANTS["baseline"], "recall", 0, 8, Recipe(1, 4, 5e-3, "cpu"))
    with pytest.raises(CassError, match="a training process has died"):
        run_all([run], (torn, data[1]), Store(tmp_path / "out"), 1)
    assert "EOFError" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["ablate", "--variant", "best"], "--variant: 'best' is not known; one of 'baseline', "),
        (
            ["ablate", "--variant", "improved,bce"],
            "--variant: 'improved,bce' is not known, did you mean 'improved, bce'; one of ",
        ),
        (
            ["ablate", "--variant", "level_ranges, cornernet", "--measures", "recall,ap"],
            "--variant: level_ranges, cornernet scores several levels, ap is of one",
        ),
        (["ablate", "--stride", "12"], "--stride: must be 4, 8, 16 or 32"),
        (["ablate", "--size", "161x96"], "--size: both sides must be multiples of 8"),
        (["ablate", "--size", "large"], "--size: must be WIDTHxHEIGHT"),
        (
            ["ablate", "--measures", "map"],
            "--measures: 'map' is not known, did you mean 'ap'; one of 'recall', 'ap'",
        ),
        (["tune", "--choice", "gain=1"], "--choice: 'gain' is not known; one of 'alpha', "),
        (["tune", "--choice", "beta=-1"], "loss_spec.beta: "),
        (["tune", "--choice", "level_ranges=1"], "--choice: 'level_ranges' is not known; one of "),
        (["tune", "--choice", "background_weight=-1"], "weight_spec.background_weight: "),
        (
            ["tune", "--choice", "balance=object", "--choice", "merge=max,clipped_sum"],
            "--choice: balance=object needs merge=max",
        ),
        (["tune", "--choice", "reduction=sum"], "--choice: 'reduction' is not known; one of "),
    ],
)
def test_bad_options(scenes: Path, tmp_path: Path, arguments: list[str], words: str) -> None:
    done = cass(scenes, *arguments, "--out", tmp_path / "out")
    assert isinstance(done.exception, InvalidRequest)
    assert str(done.exception).startswith(words)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("missing", ["torch", "optuna", "matplotlib"])
def test_no_trace_without_requirements(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    app = typer.Typer()
    register(app)
    assert not app.registered_commands


def test_commands_are_an_entry_point() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "cass_cli", "--help"], capture_output=True, text=True, check=True
    )
    listed = done.stdout.partition("Commands:")[2]
    assert "..." not in listed  # no summary is cut
    commands = listed.split("\n  ")
    assert [line.split()[0] for line in commands if line[:1].strip()] == [
        "mask", "plot", "info", "playground", "ablate", "tune", "sheet",
    ]  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "cass_cli", "plot", "--help"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "--predictor" in done.stdout
