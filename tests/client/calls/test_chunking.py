"""Batches beyond a server's limits: asked for in parts, with the numbers of the whole."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from cass.v1 import cass_pb2 as pb
from cass_client import CassClient, InvalidRequest, LossSpec, MaskRequest, MaskSpec
from cass_core import compute_loss, generate_mask
from cass_core.synthetic import street_boxes
from tests.client.support.small_servers import MaskService, serving_with
from tests.server.support.processes import free_port
from tests.support.compare import same
from tests.support.servers import ServerProcess, serving

SIZE, MAPS = (96, 160), [(12, 20), (6, 10)]
IMAGES = 23
BOXES = [*street_boxes(IMAGES - 2, 9, image_size=SIZE, seed=4), None, None]
SIZES = [(96 + i, 160 + 2 * i) for i in range(IMAGES)]
SPEC = MaskSpec(patch_size=1)

# One image has up to 9 boxes, 300 patches and, as float64 logits, 1,920 bytes.
LIMITS = {
    "message": ("--max-message-bytes", "6000"),
    "images": ("--max-images", "5"),
    "boxes": ("--max-boxes", "40"),
    "patches": ("--max-patches", "1500"),
    "work": ("--max-work", "4000"),
}


@pytest.fixture(scope="module", params=LIMITS)
def server(request: pytest.FixtureRequest) -> Iterator[ServerProcess]:
    with serving(*LIMITS[request.param]) as started:
        yield started


@pytest.fixture
def client(server: ServerProcess) -> Iterator[CassClient]:
    with CassClient(server.address, timeout=60) as made:
        yield made


@pytest.mark.parametrize("sizes", [SIZE, SIZES])
@pytest.mark.parametrize("as_tensors", [False, True])
def test_masks(client: CassClient, sizes: Any, as_tensors: bool) -> None:
    boxes: list[Any] = BOXES
    if as_tensors:
        boxes = [None if b is None else torch.from_numpy(b) for b in BOXES]
    for options in ({}, {"dtype": "uint8"}, {"return_owner": True}):
        got = client.generate_mask(boxes, sizes, MAPS, SPEC, **options)
        same(got, generate_mask(boxes, sizes, MAPS, SPEC, **options))


@pytest.mark.parametrize("reduction", ["none", "mean", "sum", "per_object"])
@pytest.mark.parametrize("dtype", ["float64", "float32", "float16"])
def test_losses(client: CassClient, reduction: str, dtype: str) -> None:
    spec = LossSpec(reduction=reduction)
    logits = np.random.default_rng(5).normal(size=(IMAGES, 12, 20)).astype(dtype)
    mask = generate_mask(BOXES, SIZES, MAPS[0], SPEC)
    boxes = sum(0 if b is None else len(b) for b in BOXES)
    whole = compute_loss(logits, mask, spec, num_boxes=boxes, return_grad=True)
    from_boxes = client.compute_loss(
        logits,
        boxes=BOXES,
        image_size=SIZES,
        feature_map=MAPS[0],
        mask_spec=SPEC,
        loss_spec=spec,
        return_grad=True,
    )
    from_target = client.compute_loss(
        logits, mask, loss_spec=spec, num_boxes=boxes, return_grad=True
    )
    for got in (from_boxes, from_target):
        same(got.grad, whole.grad)  # of the same divisor: bit by bit
        assert got.normalizer == whole.normalizer
        # Sums of sums differ in the last digits.
        np.testing.assert_allclose(got.loss, whole.loss, rtol=1e-6)
        np.testing.assert_allclose(got.sum, whole.sum, rtol=1e-6)


def test_streams(client: CassClient) -> None:
    request = MaskRequest(BOXES, SIZES, MAPS, SPEC)
    few = dataclasses.replace(request, boxes=BOXES[:2], image_size=SIZE)
    got = list(client.stream_masks([few, request, few, request, request, few]))
    large = generate_mask(BOXES, SIZES, MAPS, SPEC)
    small = generate_mask(BOXES[:2], SIZE, MAPS, SPEC)
    same(got, [small, large, small, large, large, small])


@pytest.mark.slow
def test_limits_that_have_changed() -> None:
    expected = generate_mask(BOXES, SIZE, MAPS, SPEC)
    with CassClient(f"127.0.0.1:{free_port()}", timeout=60) as client:
        port = client.target.rpartition(":")[2]
        for limit in ("8", "3"):
            with serving("--port", port, "--max-images", limit):
                same(client.generate_mask(BOXES, SIZE, MAPS, SPEC), expected)


def test_an_image_beyond_the_limits_is_refused() -> None:
    with serving("--max-patches", "200") as server, CassClient(server.address) as client:
        assert client.generate_mask(BOXES, SIZE, (10, 20), SPEC).shape == (IMAGES, 10, 20)
        with pytest.raises(InvalidRequest, match=r"^feature_map: 240 patches, .* limit is 200"):
            client.generate_mask(BOXES, SIZE, (12, 20), SPEC)


@pytest.mark.parametrize(("work", "calls"), [(0, 1), (640, 1), (639, 2), (320, 2), (80, 8)])
def test_work_is_split_where_the_server_says_how_much_it_takes(work: int, calls: int) -> None:
    """A box that fills a map of 4 x 4 is 16 + 8 * 8. An older server does not say."""
    boxes = [np.array([[0, 0, 32, 32]], np.float32)] * 8
    service = MaskService(limits=pb.Limits(images=8, work=work))
    with serving_with(service) as address, CassClient(address, timeout=60) as client:
        client.info()
        got = client.generate_mask(boxes, (32, 32), (4, 4), SPEC)
    same(got, generate_mask(boxes, (32, 32), (4, 4), SPEC))
    assert service.calls == calls


@pytest.mark.slow
def test_what_is_wrong_is_not_split() -> None:
    """A server refuses for other reasons too."""
    boxes = [np.array([[0, 0, 9, 9], [0, 0, 9, 9]], np.float32)] * 4
    with serving() as server, CassClient(server.address) as client:
        for _ in range(2):
            with pytest.raises(InvalidRequest, match=r"^mask_spec.merge: sum gave a target above"):
                client.compute_loss(
                    np.zeros((4, 3, 3), np.float32),
                    boxes=boxes,
                    image_size=(9, 9),
                    feature_map=(3, 3),
                    mask_spec=MaskSpec(patch_size=1, merge="sum"),
                )
        assert client.generate_mask(boxes, (9, 9), (3, 3), SPEC).shape == (4, 3, 3)
