"""Clients in other languages against a real server, with answers known from the core."""

from __future__ import annotations

import re
from pathlib import Path

import grpc
import numpy as np
import pytest

from cass_core import InvalidRequest, LossSpec, MaskSpec, compute_loss, generate_mask
from cass_server.exceptions import Overloaded
from tests.e2e.clients.building import CLIENTS, Builder, Client
from tests.e2e.clients.forwarding import forwarding

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def builder(tmp_path_factory: pytest.TempPathFactory) -> Builder:
    """In a folder for all."""
    return Builder(tmp_path_factory.mktemp("clients"))


@pytest.fixture(scope="module", params=CLIENTS)
def client(request: pytest.FixtureRequest, builder: Builder) -> Client:
    """Each in turn."""
    return builder.client(CLIENTS[request.param])


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The numbers of all answers, from the core."""
    first = np.array([[100, 120, 140, 200], [300.5, 80, 420, 220]], np.float32)
    boxes = [first, np.array([[600, 400, 660, 470]], np.float32)]
    masks = generate_mask(boxes, (480, 640), [(60, 80), (30, 40)], MaskSpec())
    logits = (np.arange(2400) % 9 / 4 - 1).astype(np.float32).reshape(2, 30, 40)
    spec = LossSpec(reduction="per_object")
    result = compute_loss(logits, masks[1], spec, num_boxes=3, return_grad=True)
    path = tmp_path_factory.mktemp("expected") / "numbers"
    path.write_bytes(b"".join(a.tobytes() for a in (*masks, result.loss, result.grad)))
    return path


def test_numbers_are_those_of_the_core(client: Client, address: str, expected: Path) -> None:
    done = client.run(address, 60, expected)
    assert done.returncode == 0, done.stderr
    loss, count = done.stdout.splitlines()
    assert count == "14401 numbers as expected"
    numbers = np.fromfile(expected, "<f4")
    assert numbers.size == 14401
    assert float(loss.removeprefix("loss ")) == pytest.approx(float(numbers[12000]), rel=1e-5)


def test_other_numbers_are_noticed(
    client: Client, address: str, expected: Path, tmp_path: Path
) -> None:
    other = bytearray(expected.read_bytes())
    other[-1] ^= 1
    (tmp_path / "other").write_bytes(other)
    done = client.run(address, 60, tmp_path / "other")
    assert done.returncode == 1
    assert "other numbers than expected" in done.stderr


def test_refused_calls_are_repeated_within_one_deadline(
    client: Client, address: str, expected: Path
) -> None:
    """Not before the server says; and an answer may be large and have fields of a later server."""
    refusals = [
        Overloaded("requests", 8, 1.5),
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.CANCELLED,
    ]
    with forwarding(address, *refusals) as server:
        done = client.run(server.address, 30, expected)
    assert done.returncode == 0, done.stderr
    assert "14401 numbers as expected" in done.stdout
    *tries, loss = server.arrivals
    assert [arrival.method for arrival in tries] == ["GenerateMask"] * 5
    assert loss.method == "ComputeLoss"
    assert tries[1].at - tries[0].at >= 1.5
    # gRPC rounds times up, by less than 3 %.
    assert max(arrival.seconds for arrival in tries[1:]) <= (30 - 1.5) * 1.03


def test_a_delay_beyond_the_deadline_is_not_waited_for(client: Client, address: str) -> None:
    with forwarding(address, Overloaded("requests", 8, 3600)) as server:
        done = client.run(server.address, 600)
    assert done.returncode == 1
    assert "the server is full: 8 requests in flight at most" in done.stderr
    assert len(server.arrivals) == 1


def test_a_wrong_request_is_not_repeated(client: Client, address: str) -> None:
    with forwarding(address, InvalidRequest("boxes.xyxy", "is bad")) as server:
        done = client.run(server.address, 60)
    assert done.returncode == 1
    assert "boxes.xyxy: is bad" in done.stderr
    assert len(server.arrivals) == 1


def test_no_answer_is_waited_for_until_the_deadline(client: Client, address: str) -> None:
    with forwarding(address, is_silent=True) as server:
        done = client.run(server.address, 3)
    assert done.returncode == 1
    assert re.search("deadline.?exceeded", done.stderr, re.IGNORECASE)
    assert [arrival.method for arrival in server.arrivals] == ["GenerateMask"]
    assert server.arrivals[0].seconds <= 3 * 1.03  # as gRPC rounds it
