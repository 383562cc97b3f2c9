"""MaskCollate in real DataLoaders, with workers however they are started, and a real server."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cass_core import generate_mask
from cass_core.synthetic import street_boxes
from tests.client.support.loader_programs import MAP, SAMPLES, SIZE, SPEC
from tests.server.support.processes import held
from tests.support.servers import ServerProcess, serving

pytestmark = pytest.mark.timeout(220)

LIMIT = 180.0
"""Seconds that no program takes unless it hangs."""
PROGRAM = Path(__file__).parents[1] / "support" / "loader_programs.py"


@contextlib.contextmanager
def started(*arguments: object) -> Iterator[subprocess.Popen[str]]:
    """A program in a group of its own, as a terminal starts it; none of it outlives the block.

    Its end of the pipe is inherited by all that it starts: `communicate` waits for the last of
    them.
    """
    program = subprocess.Popen(
        [sys.executable, "-W", "error", str(PROGRAM), *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    with program:
        try:
            yield program
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(program.pid, signal.SIGKILL)


def run(*arguments: object) -> str:
    """What a program prints that ends well, with all that it has started."""
    with started(*arguments) as program:
        out, err = program.communicate(timeout=LIMIT)
    assert program.returncode == 0, err
    return out


def expected() -> Any:
    boxes = [street_boxes(1, 5, image_size=SIZE, seed=index)[0] for index in range(SAMPLES)]
    return generate_mask(boxes, SIZE, MAP, SPEC)


@pytest.mark.parametrize(
    "context", ["fork", *(pytest.param(x, marks=pytest.mark.slow) for x in ("spawn", "forkserver"))]
)
def test_every_sample_comes_once_with_its_mask(
    server: ServerProcess, context: str, tmp_path: Path
) -> None:
    file = tmp_path / "runs.npz"
    run("epochs", server.address, context, file)
    with np.load(file) as found:
        arrays = dict(found)
    names = sorted({key.partition("/")[0] for key in arrays})
    assert len(names) == (8 if context == "fork" else 4)
    masks = expected()
    for name in names:
        indices = arrays[f"{name}/indices"]
        whole = "stopped" not in name
        assert len(set(indices.tolist())) == len(indices) == (SAMPLES if whole else 8), name
        np.testing.assert_array_equal(arrays[f"{name}/masks"], masks[indices], name)


@pytest.mark.slow
def test_an_error_in_a_worker_names_the_box(server: ServerProcess) -> None:
    printed = run("bad_sample", server.address, "fork", "")
    assert "Caught InvalidRequest in DataLoader worker process 0" in printed
    # Its place in the batch is drawn anew.
    assert re.search(r"InvalidRequest: boxes\[[0-3]\]\[0\]\.x2: is smaller than x1", printed)


@pytest.mark.slow
def test_ctrl_c_ends_all(server: ServerProcess) -> None:
    with started("endless", server.address, "spawn", "") as program:
        interrupt_after(program, "batch", 1)


@pytest.mark.slow
def test_ctrl_c_ends_workers_that_wait_for_an_answer(tmp_path: Path) -> None:
    (tmp_path / "warm").touch()
    with (
        serving("--drain-seconds", "0", program=held(tmp_path)) as holding,
        started("endless", holding.address, "fork", "") as program,
    ):
        interrupt_after(program, "asking", 4)  # all workers


def interrupt_after(program: subprocess.Popen[str], line: str, times: int) -> None:
    """What Ctrl-C in its terminal does to a program, when it has printed a line several times."""
    assert program.stdout is not None
    while times:
        printed = program.stdout.readline()
        assert printed, "it ended"
        times -= printed == f"{line}\n"
    os.killpg(program.pid, signal.SIGINT)
    _, err = program.communicate(timeout=LIMIT)
    # torch may raise an error about a worker that was faster, on top of the interrupt.
    assert program.returncode in (-signal.SIGINT, 1), err
    assert "KeyboardInterrupt" in err
