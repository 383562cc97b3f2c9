"""Clusters of one node for `benchmarks.ray`, each with all of its processes below one of its own.

`python -m benchmarks.ray.hosts serve|replicas` prints an address once it takes calls, and ends with
its standard input.
"""

from __future__ import annotations

import logging
import subprocess
import sys

import numpy as np
import ray
from ray import serve
from ray.serve.config import gRPCOptions

from benchmarks.common.processes import HOST, free_port
from benchmarks.common.workload import SPEC
from cass.v1 import cass_pb2 as pb
from cass_core import BoxBatch, generate_mask

# Not 127.0.0.1, for which Ray takes the machine's own address.
_NODE = "127.0.0.2"
_ADD_SERVICER = "cass.v1.cass_pb2_grpc.add_CassServiceServicer_to_server"
# More than are ever in flight, so that Serve holds none back.
_ONGOING = 1000


class Masks:
    """A deployment for Ray Serve, which finds the method of an RPC by its name."""

    async def GenerateMask(self, request: pb.GenerateMaskRequest) -> pb.GenerateMaskResponse:  # noqa: N802
        """Masks of float32, one feature map."""
        xyxy = np.frombuffer(request.boxes.xyxy, np.float32).reshape(-1, 4)
        boxes = BoxBatch.packed(xyxy, list(request.boxes.counts))
        size = request.image_sizes.heights[0], request.image_sizes.widths[0]
        cells = request.feature_maps[0].height, request.feature_maps[0].width
        mask = generate_mask(boxes, size, cells, SPEC)
        tensor = pb.Tensor(dtype=pb.DATA_TYPE_FLOAT32, shape=mask.shape, data=mask.tobytes())
        return pb.GenerateMaskResponse(masks=[tensor])


def run_ingress() -> str:
    """Serve with its gRPC ingress and one replica; returns where it listens."""
    port = free_port()
    serve.start(
        proxy_location="HeadOnly",
        http_options={"host": HOST, "port": free_port()},
        grpc_options=gRPCOptions(port=port, grpc_servicer_functions=[_ADD_SERVICER]),
    )
    deployment = serve.deployment(max_ongoing_requests=_ONGOING, ray_actor_options={"num_cpus": 0})(
        Masks
    )
    serve.run(deployment.bind(), name="masks")
    return f"{HOST}:{port}"


def run_replicas() -> str:
    """`cass-server ray` with one replica; returns where that listens."""
    address = ray.get_runtime_context().gcs_address
    command = [sys.executable, "-m", "cass_server", "ray", "--address", address]
    command += ["--name", "bench", "--num-cpus", "0", "--device", "cpu"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout.split()[0]


if __name__ == "__main__":
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    ray.init(
        "local",
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        object_store_memory=256 << 20,
        _node_ip_address=_NODE,
    )
    try:
        print({"serve": run_ingress, "replicas": run_replicas}[sys.argv[1]](), flush=True)
        sys.stdin.read()
    finally:
        ray.shutdown()
