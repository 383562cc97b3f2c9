"""`make bench-rpc`: all servers on one core, one client process at a time on the other."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.console import Console
from rich.progress import track

from benchmarks.common.measure import write
from benchmarks.common.processes import two_cores
from benchmarks.common.workload import IMAGE_SIZE, MAPS, SPEC, boxes_of
from benchmarks.rpc.client import Run
from benchmarks.rpc.report import NARROW, SideBySide, contender_table, summary
from benchmarks.rpc.servers import OURS, TRITON, Sample, Server, running, turn
from cass_core import generate_mask

CASES = [
    SideBySide(stride, keeps_memory, streamed, in_flight)
    for stride in MAPS
    for keeps_memory in (False, True)
    for streamed, in_flight in ((False, 1), (False, 8), (True, 8))
]
_CHECK_SECONDS = 0.2
_DTYPES = ("float32", "uint8")

# Of each case, of each contender.
Samples = dict[SideBySide, dict[str, list[Sample]]]


class Turns:
    """Runs clients against running servers.

    Args:
        servers: by name.
        core: the clients'.
        seconds: length of a turn.
    """

    def __init__(self, servers: dict[str, Server], core: int, seconds: float) -> None:
        self._servers, self._core, self._seconds = servers, core, seconds

    def run(self, case: SideBySide, dtype: str) -> Run:
        """What the clients of a case do."""
        return Run(
            client="",
            address="",
            stride=case.stride,
            dtype=dtype,
            in_flight=case.in_flight,
            streamed=case.streamed,
            seconds=self._seconds,
            expected="",
        )

    def check(self) -> None:
        """Compare all masks, and let each server compile and grow to its size, uncounted.

        Raises:
            SystemExit: masks are wrong.
        """
        for stride, dtype in product(MAPS, _DTYPES):
            boxes, feature_map = boxes_of(stride)
            masks = generate_mask(boxes, IMAGE_SIZE, feature_map, SPEC, dtype=dtype)
            with tempfile.NamedTemporaryFile(suffix=".npy") as file:
                np.save(file, masks)
                file.flush()
                run = self.run(SideBySide(stride, True, False, 8), dtype)
                run = replace(run, seconds=_CHECK_SECONDS, expected=file.name)
                for name, server in self._servers.items():
                    if name == OURS or dtype == "float32":
                        turn(server, run, self._core, True)

    def side_by_side(self, cases: list[SideBySide], rounds: int) -> Samples:
        """Samples of each case and contender, who take turns in each round."""
        samples: Samples = {
            case: {name: [] for name in case.contenders(list(self._servers))} for case in cases
        }
        turns = [(case, name) for _ in range(rounds) for case in cases for name in samples[case]]
        for case, name in track(turns, "turns", transient=True):
            server = self._servers[OURS if name == NARROW else name]
            run = self.run(case, "uint8" if name == NARROW else "float32")
            samples[case][name].append(turn(server, run, self._core, case.keeps_memory))
        return samples


def main(
    rounds: Annotated[int, typer.Option(min=1, help="Turns that each client gets.")] = 7,
    seconds: Annotated[float, typer.Option(help="Length of a turn.")] = 1.5,
    triton: Annotated[
        Path | None, typer.Option(help="Virtual environment with nvidia-pytriton and numba.")
    ] = None,
    only: Annotated[str, typer.Option(help="Cases whose names contain this.")] = "",
    out: Annotated[Path | None, typer.Option(help="Also write medians and ratios as JSON.")] = None,
) -> None:
    """Ratios are of neighbours in a round, then the median of the rounds."""
    console = Console(width=130, highlight=False)
    ours, theirs = two_cores()
    cases = [case for case in CASES if only in str(case)]
    if triton is None:
        console.print("Triton is skipped: no environment given (--triton VENV, make TRITON=VENV)")
    with running(ours, triton) as servers:
        turns = Turns(servers, theirs, seconds)
        turns.check()
        samples = turns.side_by_side(cases, rounds)
    results = {case: summary(case, taken) for case, taken in samples.items()}
    for case, result in results.items():
        console.print(contender_table(case, result))
    if out is not None:
        command = f"make bench-rpc ROUNDS={rounds} SECONDS={seconds:g}"
        write(
            out,
            command + (" TRITON=VENV" if TRITON in servers else ""),
            {"cases": {str(case): result for case, result in results.items()}},
        )


if __name__ == "__main__":
    typer.run(main)
