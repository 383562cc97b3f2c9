"""A client's connection: closed and opened again, its deadline, answers of any size."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from cass_client import CassClient, MaskSpec
from tests.client.support.small_servers import MaskService, serving_with

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


def test_the_deadline_is_the_callers() -> None:
    service = MaskService()
    with serving_with(service) as address:
        for options in ({}, {"timeout": 500}, {"timeout": 5000.5}):
            with CassClient(address, **options) as client:
                client.info()
    # gRPC rounds them up a little on the wire; a stalled machine only makes them fewer.
    for left, least, most in zip(service.seconds, (0, 30, 500), (30, 500, 5000.5), strict=True):
        assert least < left <= 1.02 * most
