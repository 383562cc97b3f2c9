"""`make gpu-check` runs with what a plain installation of torch for CUDA brings."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.programs import ended

pytest.importorskip("triton", reason="needs Triton, which has wheels for Linux")

# Packages that the project has besides NumPy, torch and Triton: as if they were not there.
PROGRAM = """
import sys
for name in ("numba", "pytest", "hypothesis", "typer", "rich", "grpc", "google", "matplotlib"):
    sys.modules[name] = None
from tests.gpu.__main__ import main
sys.exit(main(sys.argv[1:]))
"""


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments],
        env=environment,
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=560,
    )


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_its_checks_pass_in_the_interpreter(shared: Path, tmp_path: Path) -> None:
    done = run("--interpret", "--shared", str(shared), "--out", str(tmp_path / "out.json"))
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    checks = json.loads((tmp_path / "out.json").read_text())["checks"]
    outcomes = [check["outcome"] for check in checks]
    assert outcomes.count("failed") == 0
    assert outcomes.count("passed") >= 12


@pytest.mark.slow
def test_some_of_the_checks() -> None:
    done = run("--interpret", "--only", "empty_images", "memcheck", "--no-sanitizer")
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    assert [line.split()[1] for line in done.stdout.splitlines()[1:-1]] == ["empty_images"]
    refused = run("--only", "nothing")
    assert refused.returncode == 2
    assert "invalid choice: 'nothing'" in refused.stderr


def test_without_a_gpu_it_says_so() -> None:
    root = Path(__file__).parents[2]
    done = ended("-m", "tests.gpu", env={"CUDA_VISIBLE_DEVICES": ""}, cwd=root)
    assert done.returncode == 2
    assert done.stdout.startswith("gpu-check needs a CUDA device")
