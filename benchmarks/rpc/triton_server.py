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
from benchmarks.rpc.triton_model import Model as TritonPythonModel
"""


@contextlib.contextmanager
def triton_server(environment: Path, variables: dict[str, str]) -> Iterator[tuple[int, str]]:
    """A server that loads its model: its process and address. Its client waits for it.

    Args:
        environment: folder of the virtual environment.
        variables: the environment variables of the server.

    Raises:
        SystemExit: that environment has no Triton.
    """
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
        (version.parent / "config.pbtxt").write_text(f'name: "{NAME}"' + _CONFIG)
        (version / "model.py").write_text(_MODEL.format(paths=[str(site), str(ROOT)]))
        port = free_port()
        options = {
            "--model-repository": repository,
            "--backend-directory": str(server / "backends"),
            "--grpc-address": HOST,
            "--grpc-port": str(port),
            "--allow-http": "false",
            "--allow-metrics": "false",
        }
        command = [str(server / "bin/tritonserver"), *(part for o in options.items() for part in o)]
        log = subprocess.DEVNULL
        process = subprocess.Popen(command, env=variables, stdout=log, stderr=log)
        try:
            yield process.pid, f"{HOST}:{port}"
        finally:
            process.terminate()
            process.wait()
