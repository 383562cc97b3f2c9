"""Clusters of one node for `benchmarks.ray`, each in the process that `ray_clusters` starts.

`python -m benchmarks.ray.hosts serve|replicas` prints a line of JSON once all runs, and ends when
its standard input does. What Serve is to do is in the environment.
"""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from typing import Any

import ray
from ray import serve
from ray.serve.config import gRPCOptions
from ray.serve.context import _get_global_client
from ray.serve.schema import LoggingConfig

from benchmarks.common.processes import HOST, free_port
from benchmarks.ray.clusters import NAME
from benchmarks.ray.serving import Masks
from cass.malloc import keep_memory

# Not 127.0.0.1, for which Ray takes the machine's own address.
_NODE = "127.0.0.2"
_APP = "masks"
_ADD_SERVICER = "cass.v1.cass_pb2_grpc.add_CassServiceServicer_to_server"
# More than are ever in flight, so that Serve holds none back.
_ONGOING = 1000


def run_serve(access_log: bool) -> dict[str, str]:
    """Serve with its gRPC ingress; where the ingress listens, and the replica if it does."""
    port = free_port()
    log = LoggingConfig(enable_access_log=access_log)
    serve.start(
        proxy_location="HeadOnly",
        http_options={"host": HOST, "port": free_port()},
        grpc_options=gRPCOptions(port=port, grpc_servicer_functions=[_ADD_SERVICER]),
        logging_config=log,
    )
    deployment: Any = serve.deployment(
        max_ongoing_requests=_ONGOING, ray_actor_options={"num_cpus": 0}, logging_config=log
    )(Masks)
    serve.run(deployment.bind(), name=_APP)
    addresses = {"ingress": f"{HOST}:{port}"}
    # What runs beside Serve reads this from the dashboard (GET /api/serve/applications/).
    client: Any = _get_global_client()
    for group in ray.get(client._controller.get_target_groups.remote()):
        for target in group.targets:
            if group.protocol.value == "gRPC" and target.port != port:
                addresses["direct"] = f"{HOST}:{target.port}"
    return addresses


def run_replicas() -> dict[str, str]:
    """`cass-server ray`, as an operator starts it; where its replica listens."""
    address = ray.get_runtime_context().gcs_address
    command = [sys.executable, "-m", "cass_server", "ray", "--address", address]
    command += ["--name", NAME, "--num-cpus", "0", "--device", "cpu"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return {"replicas": done.stdout.split()[0]}


def main() -> None:
    """Run a cluster until the parent has had enough, or is gone."""
    keep_memory()
    kind = sys.argv[1]
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
        addresses = run_replicas() if kind == "replicas" else run_serve(kind == "serve")
        cluster = ray.get_runtime_context().gcs_address
        print(json.dumps({"cluster": cluster, "addresses": addresses}), flush=True)
        sys.stdin.read()
    finally:
        ray.shutdown()


if __name__ == "__main__":
    main()
