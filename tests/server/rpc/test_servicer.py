"""Single calls: what a caller gets, and that one request's failure is nobody else's."""

from __future__ import annotations

import logging
import struct

import pytest

from cass.v1 import cass_pb2 as pb
from tests.server.support.details import fails, violations
from tests.server.support.engines import FAILING, HELD, HoldingEngine
from tests.server.support.in_thread import running
from tests.server.support.processes import LIMIT
from tests.server.support.requests import mask_request


def test_bad_requests_name_the_field() -> None:
    """The values of a loss's target are checked by the engine, while it computes."""
    request = mask_request()
    request.mask_spec.patch_size = 0
    reason = "must be a whole number from 1 to 2147483647, got 0"
    numbers = struct.pack("<2f", 0, 2)
    tensor = pb.Tensor(dtype=pb.DATA_TYPE_FLOAT32, shape=[1, 2], data=numbers)
    loss = pb.ComputeLossRequest(logits=tensor, target=tensor)
    with running() as server:
        with fails("INVALID_ARGUMENT", f"mask_spec.patch_size: {reason}") as caught:
            server.stub.GenerateMask(request, timeout=LIMIT)
        assert violations(caught.value) == [("mask_spec.patch_size", reason)]
        with fails("INVALID_ARGUMENT") as caught:
            server.stub.ComputeLoss(loss, timeout=LIMIT)
        assert violations(caught.value) == [("target[0][1]", "is not in [0, 1] (2.0)")]


def test_errors_do_not_disturb_what_is_in_flight(caplog: pytest.LogCaptureFixture) -> None:
    engine = HoldingEngine()
    request = mask_request(images=3)
    request.boxes.counts.append(2)
    reason = "boxes.counts: add up to 5, but there are 3 boxes"
    with running(engine) as server, caplog.at_level(logging.INFO, "cass_server"):
        with engine.holding(server.stub) as (in_flight,):
            with fails("INVALID_ARGUMENT", reason):
                server.stub.GenerateMask(request, timeout=LIMIT)
            with fails("INTERNAL", "internal error; see the server's log"):
                server.stub.GenerateMask(mask_request(images=FAILING), timeout=LIMIT)
            assert not in_flight.done()
        assert list(in_flight.result().masks[0].shape) == [HELD, 4, 4]
    refused, failed = caplog.records
    assert (refused.getMessage(), refused.levelname) == ("request refused", "WARNING")
    assert vars(refused)["reason"] == reason
    assert (failed.getMessage(), failed.levelname) == ("request failed", "ERROR")
