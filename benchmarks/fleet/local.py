"""What masks cost a loader's own process: asked of a server, or made there by `local:`."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from functools import partial
from statistics import median
from typing import Any

from benchmarks.common.workload import IMAGE_SIZE, IMAGES, MAPS, SPEC
from benchmarks.fleet.measure import Kind
from cass_client import CassClient
from cass_core.synthetic import street_boxes

_CALLS = 50
# A loader that asks for its first batch; it must import nothing else.
_WORKER = """
import json, sys, time
from pathlib import Path
from cass_client import CassClient, MaskSpec
from cass_core.synthetic import street_boxes

boxes = street_boxes(16, 15, image_size=(736, 1280))
with CassClient(sys.argv[1]) as client:
    client.generate_mask(boxes, (736, 1280), (23, 40), MaskSpec(patch_size=1))
    status = Path("/proc/self/status").read_text()
resident = int(status.partition("VmRSS:")[2].split()[0]) << 10
print(json.dumps({"resident_bytes": resident, "cpu_seconds": time.process_time()}))
"""


def time_calls(address: str, kinds: Sequence[Kind], rounds: int) -> dict[str, dict[str, float]]:
    """Seconds of processor time a batch, by kind, of `local:` and of a call to the server."""
    results = {}
    with CassClient(address) as remote, CassClient("local:") as local:
        for kind in kinds:
            used: dict[str, list[float]] = {"local": [], "remote": []}
            for round_ in range(rounds + 1):
                for name, client in (("local", local), ("remote", remote)):
                    call = _call(client, kind)
                    start = time.process_time()
                    for _ in range(_CALLS):
                        call()
                    if round_:  # the first one compiles and connects
                        used[name].append((time.process_time() - start) / _CALLS)
            results[str(kind)] = {name: median(taken) for name, taken in used.items()}
    return results


def workers(address: str, rounds: int) -> dict[str, dict[str, float]]:
    """Resident bytes of a process after its first batch, and processor seconds until then."""
    results = {}
    for name, target in (("local", "local:"), ("remote", address)):
        told = [
            json.loads(
                subprocess.run(
                    [sys.executable, "-c", _WORKER, target],
                    stdout=subprocess.PIPE,
                    check=True,
                    text=True,
                ).stdout
            )
            for _ in range(rounds)
        ]
        results[name] = {key: median(one[key] for one in told) for key in told[0]}
    return results


def _call(client: CassClient, kind: Kind) -> Any:
    feature_map, boxes = MAPS[kind.stride]
    arrays = street_boxes(IMAGES, boxes, image_size=IMAGE_SIZE)
    return partial(client.generate_mask, arrays, IMAGE_SIZE, feature_map, SPEC, dtype=kind.dtype)
