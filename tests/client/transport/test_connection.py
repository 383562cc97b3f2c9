"""A client's connection: closed and opened again, its deadline, answers of any size."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from concurrent import futures
from typing import Any

import grpc
import numpy as np
import pytest
import torch

from cass.v1 import cass_pb2 as pb
from cass.v1 import cass_pb2_grpc
from cass_client import CassClient, MaskSpec

FINE = MaskSpec(patch_size=1)


def test_closed_client_opens_again(address: str) -> None:
    client = CassClient(address, timeout=60)
    client.close()  # of what was never opened
    for _ in range(2):
        with client:
            assert client.info().device == "cpu"
        client.close()


@pytest.mark.parametrize("boxes", [np.zeros((1, 4), np.float32), torch.zeros(1, 4)])
def test_results_can_be_written_to(address: str, boxes: Any) -> None:
    with CassClient(address, timeout=60) as client:
        mask, owner = client.generate_mask([boxes], (32, 32), (4, 4), FINE, return_owner=True)
        logits = mask.reshape(1, 16)
        loss = client.compute_loss(logits, mask, return_grad=True)
    for array in (mask, owner, loss.grad):
        array += 1
    assert float(mask.min()) >= 1
    assert int(owner.min()) == 0


def test_answers_beyond_the_usual_4_mib(address: str) -> None:
    with CassClient(address, timeout=60) as client:
        mask = client.generate_mask([[[0, 0, 1500, 1500]]], (1500, 1500), (1500, 1500), FINE)
    assert mask.nbytes == 4 * 1500**2
    assert mask.min() == mask.max() == 1


@contextlib.contextmanager
def telling_deadlines() -> Iterator[tuple[str, list[float]]]:
    """A server that keeps how many seconds each call had left."""
    remaining: list[float] = []

    class Service(cass_pb2_grpc.CassServiceServicer):
        def GetServerInfo(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
            remaining.append(context.time_remaining())
            return pb.GetServerInfoResponse(version="1", device="cpu")

    server = grpc.server(futures.ThreadPoolExecutor(1))
    cass_pb2_grpc.add_CassServiceServicer_to_server(Service(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}", remaining
    finally:
        server.stop(None).wait(timeout=60)


def test_the_deadline_is_the_callers() -> None:
    with telling_deadlines() as (address, remaining):
        for options in ({}, {"timeout": 500}, {"timeout": 5000.5}):
            with CassClient(address, **options) as client:
                client.info()
    # gRPC rounds them up a little on the wire; a stalled machine only makes them fewer.
    for left, least, most in zip(remaining, (0, 30, 500), (30, 500, 5000.5), strict=True):
        assert least < left <= 1.02 * most
