"""The kernels compile for NVIDIA GPUs, from Ampere on, on a machine that has none."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="needs Triton, which has wheels for Linux")


def compiled(folder: Path, *arguments: int) -> set[str]:
    """Names of kernels that `tests.core.support.native` compiles."""
    # A process of its own: this one interprets.
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-m", "tests.core.support.native", *map(str, arguments)],
        env=environment | {"TRITON_CACHE_DIR": str(folder)},
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return {line.split()[0].strip("_").removesuffix("_kernel") for line in done.stdout.splitlines()}


def test_masks_compile(tmp_path: Path) -> None:
    """Of several maps too, one of a single column, which Triton compiles in."""
    assert compiled(tmp_path, 90, 4) == {"mask", "weighted", "share"}


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("capability", [80, 90])
def test_every_kernel_compiles(capability: int, tmp_path: Path) -> None:
    names = compiled(tmp_path, capability)
    assert names == {"mask", "weighted", "share", "target", "boxes", "finish", "scale"}
