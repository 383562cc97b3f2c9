"""Server reflection: which services there are, and their messages, for clients such as grpcurl."""

from __future__ import annotations

from collections.abc import Sequence

from google.protobuf import descriptor_pool
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection, reflection_pb2, reflection_pb2_grpc

from cass.contract import SERVICE_NAME
from cass.v1 import cass_pb2 as pb
from cass_server.rpc import health
from cass_server.rpc.router import Router
from cass_server.rpc.servicer import Service


def add_reflection(router: Router, others: Sequence[Service]) -> None:
    """Adds reflection of our service, health checks, reflection itself and other services."""
    names = [SERVICE_NAME, health.SERVICE_NAME, reflection.SERVICE_NAME]
    names += [other.name for other in others]
    # Ours are in a pool of their own.
    pool = descriptor_pool.DescriptorPool()
    files = [pb.DESCRIPTOR, health_pb2.DESCRIPTOR, reflection_pb2.DESCRIPTOR]
    for file in (*files, *(other.file for other in others)):
        pool.AddSerializedFile(file.serialized_pb)
    reflection_pb2_grpc.add_ServerReflectionServicer_to_server(
        reflection.ReflectionServicer(names, pool), router
    )
