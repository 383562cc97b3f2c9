"""Every extra can be installed at its floors, and every image, by what registries have."""

from __future__ import annotations

import re
import subprocess
import tomllib

import pytest

from tests.packaging.test_wheel import ROOT, TOOLS

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = sorted(PROJECT["optional-dependencies"].keys() - {"all", "dev"})


def uv(*arguments: object) -> str:
    """What `uv pip` prints."""
    if not (TOOLS / "uv").exists():
        pytest.skip("`make dist` brings the tools")
    done = subprocess.run(
        [TOOLS / "uv", "pip", *map(str, arguments)],
        capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout + done.stderr


@pytest.mark.parametrize("python", ["3.11", "3.13"])
@pytest.mark.parametrize("extra", EXTRAS)
def test_floors_of_an_extra_go_together(extra: str, python: str) -> None:
    printed = uv(
        *("compile", "--quiet", "--no-config", "--resolution", "lowest-direct"),
        *("--python-version", python, "--extra", extra, ROOT / "pyproject.toml"),
    )
    assert re.search(r"^numpy==1\.26\.\d+$", printed, re.MULTILINE)


@pytest.mark.parametrize(
    ("image", "python"),
    [("client", "3.11"), ("cpu", "3.11"), ("cuda", "3.12")],  # as its base has it
)
def test_an_image_finds_a_wheel_of_each_hash(image: str, python: str) -> None:
    """For its Python and Linux, with nothing missing; only what describes them is downloaded."""
    lock = ROOT / "docker" / "locked" / f"{image}.txt"
    printed = uv(
        *("compile", "--quiet", "--no-config", "--no-header", "--no-annotate", "--generate-hashes"),
        *("--only-binary", ":all:", "--python-version", python),
        *("--python-platform", "x86_64-manylinux_2_28", lock),
    )
    locked, found = hashes(lock.read_text(encoding="utf-8")), hashes(printed)
    assert found.keys() == locked.keys()
    # The registry may have more by now.
    assert {name for name, known in locked.items() if not known <= found[name]} == set()


def hashes(text: str) -> dict[str, set[str]]:
    """The hashes of each pinned package."""
    entries = re.split(r"^(?=[\w.-]+==)", text, flags=re.MULTILINE)[1:]
    return {e.split()[0]: set(re.findall("sha256:[0-9a-f]{64}", e)) for e in entries}
