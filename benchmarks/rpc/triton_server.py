"""NVIDIA Triton with its Python backend, from an environment with nvidia-pytriton and numba."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.common.processes import HOST, free_port

ROOT = Path(__file__).parents[2]
NAME = "cass"
_CONFIG = """
name: "cass"
backend: "python"
max_batch_size: 0
input [
  { name: "boxes" data_type: TYPE_FP32 dims: [-1, 4] },
  { name: "counts" data_type: TYPE_INT64 dims: [-1] },
  { name: "feature_map" data_type: TYPE_INT64 dims: [2] }
]
output [ { name: "mask" data_type: TYPE_FP32 dims: [-1, -1, -1] } ]
instance_group [ { kind: KIND_CPU count: 1 } ]
"""
# The backend's stub process has an interpreter of its own.
_MODEL = """
import sys
sys.path[:0] = {paths!r}
import triton_python_backend_utils as backend
from benchmarks.common.workload import kernel_masks
from cass_core import BoxBatch

class TritonPythonModel:
    def execute(self, requests):
        answers = []
        for request in requests:
            boxes, counts, feature_map = (
                backend.get_input_tensor_by_name(request, name).as_numpy()
                for name in ("boxes", "counts", "feature_map")
            )
            mask = kernel_masks(
                BoxBatch.packed(boxes, counts.tolist()), tuple(feature_map.tolist())
            )
            answers.append(backend.InferenceResponse([backend.Tensor("mask", mask)]))
        return answers
"""


@contextlib.contextmanager
def triton_server(environment: Path, variables: dict[str, str]) -> Iterator[tuple[int, str]]:
    """A server that loads its model: its process and address. Its client waits for it."""
    found = list(environment.glob("lib/python3.*/site-packages/pytriton/tritonserver"))
    if not found:
        raise SystemExit(f"{environment} has no nvidia-pytriton")
    server, site, python = found[0], found[0].parents[1], found[0].parents[2].name
    # The wheel has a stub for each version of Python, and the backend takes what lies beside it.
    stub = f"python_backend_stubs/{python.removeprefix('python')}/triton_python_backend_stub"
    shutil.copy(server / stub, server / "backends/python/")
    with tempfile.TemporaryDirectory() as repository:
        version = Path(repository, NAME, "1")
        version.mkdir(parents=True)
        (version.parent / "config.pbtxt").write_text(_CONFIG, encoding="utf-8")
        (version / "model.py").write_text(
            _MODEL.format(paths=[str(site), str(ROOT)]), encoding="utf-8"
        )
        address = f"{HOST}:{(port := free_port())}"
        options = f"--grpc-address {HOST} --grpc-port {port} --allow-http false"
        command = [str(server / "bin/tritonserver"), *options.split(), "--allow-metrics", "false"]
        command += ["--model-repository", repository]
        command += ["--backend-directory", str(server / "backends")]
        log = subprocess.DEVNULL
        process = subprocess.Popen(command, env=variables, stdout=log, stderr=log)
        try:
            yield process.pid, address
        finally:
            process.terminate()
            process.wait()
