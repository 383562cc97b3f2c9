"""Small servers of gRPC's own kind: what a client meets there comes from gRPC, not from ours."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from concurrent import futures
from typing import Any

import grpc
import numpy as np

from cass import convert
from cass.dtypes import NUMBERS
from cass.v1 import cass_pb2 as pb
from cass.v1 import cass_pb2_grpc
from cass_core.cpu.backend import compute_masks

LIMIT = 60.0
"""Seconds that nothing takes unless it hangs."""


def tensor(array: np.ndarray[Any, Any], dtype: str) -> pb.Tensor:
    """An array, bfloat16 as its bits, as protobuf lays it out."""
    return pb.Tensor(dtype=NUMBERS[dtype], shape=array.shape, data=array.tobytes())


def masks_of(request: pb.GenerateMaskRequest) -> pb.GenerateMaskResponse:
    """The answer of the core."""
    inputs = convert.mask_inputs(request)
    masks, owners, _ = compute_masks(inputs)
    return pb.GenerateMaskResponse(
        masks=[tensor(mask, inputs.dtype) for mask in masks],
        owners=[tensor(owner, "int32") for owner in owners],
    )


def make_masks(request: Any, _: grpc.ServicerContext) -> Any:
    """For `MaskService`."""
    return masks_of(request)


class MaskService(cass_pb2_grpc.CassServiceServicer):
    """Answers requests for masks, knows no streams, and says its limits.

    Args:
        answer: to each request for masks.
        limits: what it says they are.

    Attributes:
        calls: how many requests for masks there were.
        seconds: how many each call for `info` had left.
    """

    def __init__(
        self,
        answer: Callable[[Any, grpc.ServicerContext], Any] = make_masks,
        limits: pb.Limits | None = None,
    ) -> None:
        self.calls = 0
        self.seconds: list[float] = []
        self._answer = answer
        self._limits = limits

    def GenerateMask(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        """As it was told."""
        self.calls += 1
        return self._answer(request, context)

    def GetServerInfo(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        """The limits alone."""
        self.seconds.append(context.time_remaining())
        return pb.GetServerInfoResponse(limits=self._limits)


@contextlib.contextmanager
def serving_with(service: cass_pb2_grpc.CassServiceServicer, **options: Any) -> Iterator[str]:
    """The address of a server with this service; the options are those of `grpc.server`."""
    server = grpc.server(futures.ThreadPoolExecutor(4), **options)
    cass_pb2_grpc.add_CassServiceServicer_to_server(service, server)
    with running(server) as address:
        yield address


@contextlib.contextmanager
def running(server: grpc.Server) -> Iterator[str]:
    """The address of a server that is started here, and stopped."""
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None).wait(timeout=LIMIT)
