"""`make gpu-check`: the kernels on the GPU of this machine, checked and measured.

NumPy, torch and Triton are enough. Exits with 1 where a check fails and with 2 where there is no
GPU; a missed speed bound is shown and recorded alone.
"""

from __future__ import annotations

import os
import sys

if "--interpret" in sys.argv:
    # Triton reads it when it is imported, which torch may do.
    os.environ["TRITON_INTERPRET"] = "1"

import argparse
import contextlib
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.common.measure import write
from benchmarks.core import gpu_speed
from tests.gpu import checks, server, training
from tests.gpu.setup import Setup, Skipped
from tests.support.interpreted import kernels

_ROOT = Path(__file__).resolve().parents[2]
_SANITIZER_SECONDS = 600
_SIGNS = {"passed": "✓", "failed": "✗", "skipped": "–"}


@dataclass(frozen=True, slots=True)
class Check:
    """One entry of the list.

    Attributes:
        run: what raises where something is wrong, or `Skipped`.
        native_only: whether it means nothing in the interpreter.
    """

    run: Callable[[Setup], None]
    native_only: bool = False


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a check.

    Attributes:
        name: of the check.
        outcome: ``passed``, ``failed`` or ``skipped``.
        seconds: that it took, the compilation of kernels included.
        reason: why it failed or was skipped.
    """

    name: str
    outcome: str
    seconds: float
    reason: str = ""


def main(argv: Sequence[str] | None = None) -> int:
    """Check, measure, print and write; the exit status."""
    args = _arguments(argv)
    if not args.interpret and not torch.cuda.is_available():
        print(f"gpu-check needs a CUDA device, and torch {torch.__version__} finds none")
        return 2
    name = "cpu" if args.interpret else f"cuda:{torch.cuda.current_device()}"
    setup = Setup(torch.device(name), not args.interpret, args.shared)
    with kernels() if args.interpret else contextlib.nullcontext():
        if args.sanitized:
            training.launch_everything(setup)
            return 0
        outcomes = _check(setup, _chosen(args))
    figures = gpu_speed.figures() if setup.native and not args.no_speed else []
    for figure in figures:
        print(figure)
    if args.out is not None:
        command = "make gpu-check" if setup.native else "python -m tests.gpu --interpret"
        results = {
            "gpu": _gpu() if setup.native else None,
            "checks": [asdict(outcome) for outcome in outcomes],
            "speed": [figure.record() for figure in figures],
        }
        write(args.out, command, results)
    failed = [outcome.name for outcome in outcomes if outcome.outcome == "failed"]
    print(f"failed: {', '.join(failed)}" if failed else "no check failed")
    return 1 if failed else 0


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.gpu", description=__doc__)
    parser.add_argument("--out", type=Path, help="also write the results as JSON")
    parser.add_argument(
        "--shared",
        type=Path,
        default=_ROOT.parent / "shared",
        help="folder with the conformance answers (default: ../shared beside the checkout)",
    )
    names = [check.run.__name__ for check in CHECKS]
    parser.add_argument(
        "--only", nargs="+", choices=names, metavar="CHECK", help=f"of {', '.join(names)}"
    )
    parser.add_argument("--no-speed", action="store_true", help="no benchmark")
    parser.add_argument("--no-sanitizer", action="store_true", help="no compute-sanitizer")
    # For work on this script where there is no GPU: few cases, no speed.
    parser.add_argument("--interpret", action="store_true", help=argparse.SUPPRESS)
    # What the sanitizer runs.
    parser.add_argument("--sanitized", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def _chosen(args: argparse.Namespace) -> list[Check]:
    """The checks to run; benchmarks are of a server too."""
    left_out = [memcheck, racecheck] if args.no_sanitizer else []
    left_out += [server.server_speed] if args.no_speed else []
    return [
        check
        for check in CHECKS
        if (args.only is None or check.run.__name__ in args.only) and check.run not in left_out
    ]


def _check(setup: Setup, chosen: Sequence[Check]) -> list[Outcome]:
    """Run the checks, printing each as it ends."""
    if not setup.native:
        print("Triton's interpreter on the CPU: a seeded choice of the cases, no speed")
    outcomes = []
    for check in chosen:
        outcome = _outcome(check, setup)
        outcomes.append(outcome)
        line = f"{_SIGNS[outcome.outcome]} {outcome.name:22}{outcome.seconds:7.1f} s"
        print(
            line, *(f"  {text}" for text in outcome.reason.splitlines()[:12]), sep="\n", flush=True
        )
    return outcomes


def _outcome(check: Check, setup: Setup) -> Outcome:
    name = check.run.__name__
    if check.native_only and not setup.native:
        return Outcome(name, "skipped", 0.0, "needs a GPU")
    start = time.perf_counter()
    try:
        check.run(setup)
        outcome, reason = "passed", ""
    except Skipped as skipped:
        outcome, reason = "skipped", str(skipped)
    except Exception as error:  # whatever a broken kernel or driver raises fails this check alone
        outcome, reason = "failed", f"{type(error).__name__}: {error}"
    return Outcome(name, outcome, time.perf_counter() - start, reason)


def memcheck(setup: Setup) -> None:
    """No kernel reads or writes beyond its tensors."""
    _sanitize("memcheck")


def racecheck(setup: Setup) -> None:
    """No two threads of a kernel race in shared memory."""
    _sanitize("racecheck")


def _sanitize(tool: str) -> None:
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/local/cuda/bin"])
    program = shutil.which("compute-sanitizer", path=path)
    if program is None:
        raise Skipped("no compute-sanitizer on PATH or in /usr/local/cuda/bin")
    watched = [program, "--tool", tool, "--error-exitcode", "1"]
    with subprocess.Popen(
        [*watched, sys.executable, "-m", "tests.gpu", "--sanitized"],
        cwd=_ROOT,
        # Each tensor in memory of its own, so that what lies beyond it is nobody's.
        env=os.environ | {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as child:
        try:
            output, _ = child.communicate(timeout=_SANITIZER_SECONDS)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"not done after {_SANITIZER_SECONDS} s") from None
        finally:
            # Also what the sanitizer started, which outlives it.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
    assert child.returncode == 0, f"exit status {child.returncode}\n{output[-4000:]}"


def _gpu() -> dict[str, Any]:
    """The device, and what drives it."""
    device = torch.cuda.get_device_properties(torch.cuda.current_device())
    driver = None
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        driver = subprocess.run(
            ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        ).stdout.split()[0]
    return {
        "name": device.name,
        "capability": f"{device.major}.{device.minor}",
        "memory_bytes": device.total_memory,
        "driver": driver,
        "cuda": torch.version.cuda,
    }


CHECKS = (
    Check(checks.mask_conformance),
    Check(checks.mask_dtypes),
    Check(checks.loss_conformance),
    Check(checks.weight_conformance),
    Check(checks.random_scenes),
    Check(checks.ways_to_the_same_mask),
    Check(checks.empty_images),
    Check(checks.thousand_boxes),
    Check(checks.fused_loss),
    Check(training.outer_gradients),
    Check(training.operators),
    Check(training.compiled),
    Check(training.autocast),
    Check(training.no_waiting, native_only=True),
    Check(training.cuda_graph, native_only=True),
    Check(server.server_answers, native_only=True),
    Check(server.server_first_calls, native_only=True),
    Check(server.server_faults, native_only=True),
    Check(server.server_speed, native_only=True),
    Check(memcheck, native_only=True),
    Check(racecheck, native_only=True),
)


if __name__ == "__main__":
    sys.exit(main())
