"""`make bench-rpc`: all servers on one core, one client process at a time on the other."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import numpy as np
import typer
from rich.progress import track

from benchmarks.common.measure import judged, median_ratio, write
from benchmarks.common.processes import on_core, two_cores
from benchmarks.common.tables import CONSOLE, Out, Rounds, Seconds, show
from benchmarks.common.workload import IMAGE_SIZE, IMAGES, MAPS, SPEC, Case, boxes_of
from benchmarks.rpc.local import measure
from benchmarks.rpc.servers import (
    INFERENCE,
    OURS,
    STUB,
    THREADS,
    TRITON,
    Sample,
    Server,
    running,
    take_turn,
)
from cass_core import generate_mask

NARROW = "ours, uint8"
"""Our server with uint8 masks, beside the others' float32."""
CASES = [
    (Case(stride, "float32", in_flight, streamed), keeps_memory)
    for stride in MAPS
    for keeps_memory in (False, True)
    for streamed, in_flight in ((False, 1), (False, 8), (True, 8))
]
FIGURES = ("rate", "client", "p50")
_CHECK_SECONDS = 0.2


def check(servers: dict[str, Server], core: int) -> None:
    """Compare all masks, and let each server compile and grow to its size, uncounted."""
    for stride, dtype in product(MAPS, ("float32", "uint8")):
        boxes, feature_map = boxes_of(stride)
        masks = generate_mask(boxes, IMAGE_SIZE, feature_map, SPEC, dtype=dtype)
        with tempfile.NamedTemporaryFile(suffix=".npy") as file:
            np.save(file, masks)
            file.flush()
            case = Case(stride, dtype, 8, streamed=False)
            for name, server in servers.items():
                if name == OURS or dtype == "float32":
                    take_turn(server, case, _CHECK_SECONDS, core, True, file.name)


def side_by_side(
    servers: dict[str, Server], rounds: int, seconds: float, core: int
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Name, medians and ratios of each case; its contenders take turns in each round."""
    for case, keeps_memory in track(CASES, "cases", transient=True):
        by_stub = () if keeps_memory else (STUB, INFERENCE)
        samples: dict[str, list[Sample]] = {
            name: [] for name in servers if name in by_stub or name not in (STUB, INFERENCE)
        }
        if case.streamed:
            samples[NARROW] = []
        for _ in range(rounds):
            for name, taken in samples.items():
                server = servers[OURS if name == NARROW else name]
                request = replace(case, dtype="uint8") if name == NARROW else case
                taken.append(take_turn(server, request, seconds, core, keeps_memory))
        medians = {
            name: {
                figure: median(sample[figure] for sample in taken)
                for figure in ("rate", "client", "server", "p50")
            }
            for name, taken in samples.items()
        }
        title = f"{case}, {'kept' if keeps_memory else 'default'} memory"
        yield title, {"medians": medians, "ratios": ratios_of(case, samples)}


def bound_of(figure: str, case: Case, row: str) -> float | None:
    """The least ratio of a rate, the largest of a time; None where there is no bound."""
    if row == THREADS and figure == "rate":
        return 0.95
    if row == THREADS and not case.streamed and (figure == "client" or case.in_flight == 1):
        return 1.10
    if row == INFERENCE and figure == "rate":
        return 0.9
    if figure != "rate" or row not in (TRITON, NARROW):
        return None
    if row == NARROW:
        return 1.7
    return {"stride 32": 1.15, "stride 8": 1.2}[case.stride] if case.streamed else 1.0


def ratios_of(case: Case, samples: dict[str, list[Sample]]) -> dict[str, dict[str, Any]]:
    """Each figure of ours divided by another server's.

    Uint8 masks are divided by Triton's, and `ModelInfer` by `GenerateMask`.
    """
    found: dict[str, dict[str, Any]] = {}
    for row in samples:
        ours, other = {NARROW: (NARROW, TRITON), INFERENCE: (INFERENCE, STUB)}.get(row, (OURS, row))
        if row in (OURS, STUB) or other not in samples:
            continue
        for figure in FIGURES if row == THREADS and not case.streamed else FIGURES[:1]:
            pairs = [[one[figure] for one in samples[name]] for name in (ours, other)]
            bound = {"least" if figure == "rate" else "most": bound_of(figure, case, row)}
            found.setdefault(row, {})[figure] = judged(median_ratio(*pairs), **bound)
    return found


def main(
    rounds: Rounds = 7,
    seconds: Seconds = 1.5,
    triton: Annotated[
        Path | None, typer.Option(help="Virtual environment with nvidia-pytriton and numba.")
    ] = None,
    out: Out = None,
) -> None:
    """Ratios are of neighbours in a round, then the median of the rounds."""
    ours, theirs = two_cores()
    if triton is None:
        CONSOLE.print("Triton is skipped: no environment given (--triton VENV, make TRITON=VENV)")
    results = {}
    with running(ours, triton) as servers:
        check(servers, theirs)
        for title, result in side_by_side(servers, rounds, seconds, theirs):
            results[title] = result
            show(f"{title}: calls per second, CPU µs per call, p50 ms", result["medians"])
            show("ours / it, uint8 / Triton, ModelInfer / GenerateMask", result["ratios"])
        with on_core(theirs):
            local = measure(servers[OURS].address, rounds)
    show(f"ms per batch of {IMAGES} images, one caller, server on another core", local)
    if out is not None:
        command = f"make bench-rpc ROUNDS={rounds} SECONDS={seconds:g}"
        command += " TRITON=VENV" if triton is not None else ""
        write(out, command, {"cases": results, "milliseconds_per_batch": local})


if __name__ == "__main__":
    typer.run(main)
