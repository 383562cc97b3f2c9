"""What `cass` cannot write or hold ends in one line, not in a traceback or without memory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.programs import ended

FILE = {"images": [{"id": 1, "height": 20, "width": 30}], "annotations": []}
# Enough for an interpreter with everything loaded, and no more than a small machine has.
MEMORY = 3 << 30
# Not by `preexec_fn`: with it this process forks, and where it has used gRPC the child may abort.
BOUNDED = f"""
import os, resource, sys
resource.setrlimit(resource.RLIMIT_AS, ({MEMORY}, {MEMORY}))
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""


def cass(folder: Path, arguments: tuple[str, ...], content: str) -> Any:
    """Run the command in the folder, with bounded memory."""
    (folder / "file.json").write_text(content)
    return ended("-c", BOUNDED, "-m", "cass_cli", *arguments, cwd=folder)


def check_refused(folder: Path, *arguments: str, content: str = json.dumps(FILE)) -> None:
    """The command ends with 1 or 2, says what is wrong, and leaves no file behind."""
    done = cass(folder, arguments, content)
    assert done.returncode in (1, 2)
    assert "Traceback" not in done.stderr, done.stderr[-600:]
    assert done.stderr.strip()
    assert [path.name for path in folder.iterdir()] == ["file.json"]


@pytest.mark.slow
def test_the_memory_is_enough_for_what_is_good(tmp_path: Path) -> None:
    arguments = ("mask", "file.json", "--out", "m.npz", "--plot", "figures")
    done = cass(tmp_path, arguments, json.dumps(FILE))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "figures" / "1.png").stat().st_size > 1000


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [
        ["plot", "file.json", "--image", "1", "--out", "no/where/p.png"],
        ["plot", "file.json", "--image", "1", "--out", "p.xyz"],
        # Not even the superuser creates files there.
        ["mask", "file.json", "--out", "/proc/m.npz"],
        ["mask", "file.json", "--out", "m.npz", "--plot", "/proc/figures"],
    ],
)
def test_places_that_cannot_be_written(tmp_path: Path, arguments: list[str]) -> None:
    check_refused(tmp_path, *arguments)


@pytest.mark.parametrize("digits", [400, 5000])
def test_numbers_that_no_float_holds(tmp_path: Path, digits: int) -> None:
    change = f"min_size={'9' * digits}"
    check_refused(tmp_path, "mask", "file.json", "--out", "m.npz", "--set", change)


def test_masks_that_no_memory_holds(tmp_path: Path) -> None:
    image = {"id": 1, "height": 2**31 - 1, "width": 2**31 - 1}
    content = json.dumps({"images": [image], "annotations": []})
    check_refused(tmp_path, "mask", "file.json", "--out", "m.npz", content=content)


def test_deeply_nested_json(tmp_path: Path) -> None:
    # 100 kB of brackets, and lists that end.
    arguments = ("mask", "file.json", "--out", "m.npz")
    check_refused(tmp_path, *arguments, content="[" * 100_000)
    lists = "[" * 100_000 + "]" * 100_000
    content = json.dumps(FILE).replace('"id": 1', f'"id": 1, "a": {lists}')
    done = cass(tmp_path, arguments, content)
    error = "cass: file.json: nests lists or objects more than 1000 deep\n"
    assert (done.returncode, done.stderr) == (1, error)
