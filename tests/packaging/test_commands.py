"""What somebody does first after an installation, on every system: `make client-test`."""

from __future__ import annotations

import importlib.metadata
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import cass_client
from cass_client import CassClient
from tests.support.programs import LIMIT

VERSION = importlib.metadata.version("cass")


@pytest.mark.parametrize("arguments", [("-m", "cass_cli"), ()], ids=["module", "program"])
def test_the_command_tells_the_version(arguments: tuple[str, ...], tmp_path: Path) -> None:
    program = shutil.which("cass", path=str(Path(sys.executable).parent))
    assert program is not None
    done = subprocess.run(
        [*((sys.executable, *arguments) if arguments else (program,)), "--version"],
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=True,
        cwd=tmp_path,
    )
    assert done.stdout.split() == ["cass", VERSION]
    assert cass_client.__version__ == VERSION


def test_masks_without_a_server() -> None:
    """A box of exactly one patch: that patch is 1, and what is far from it 0."""
    boxes = [np.array([[32, 32, 64, 64]], np.float32)]
    with CassClient("local:") as client:
        mask = client.generate_mask(boxes, (320, 320), (10, 10))
    assert mask.shape == (1, 10, 10)
    assert mask[0, 1, 1] == 1
    assert mask[0, 9, 9] == 0
