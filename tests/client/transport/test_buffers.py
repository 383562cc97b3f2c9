"""What a client keeps of its caller's arrays, and of its connection when it is closed."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from cass_client import BoxBatch, CassClient, MaskRequest, MaskSpec
from cass_core import generate_mask
from tests.support.servers import ServerProcess

SIZE, MAP, SPEC = (64, 64), (8, 8), MaskSpec(patch_size=1)
SIDES = (8, 16, 24, 32, 40, 48)


@pytest.mark.parametrize("as_tensor", [False, True])
def test_a_buffer_that_is_filled_anew(server: ServerProcess, as_tensor: bool) -> None:
    """By a source that is asked for several requests before the first is answered."""
    array = np.zeros((1, 4), np.float32)
    boxes = torch.from_numpy(array) if as_tensor else array
    sizes = np.array([[64, 64]])

    def requests() -> Iterator[MaskRequest]:
        for side in SIDES:
            array[0, 2:] = side
            sizes[:] = 64 + side
            yield MaskRequest(BoxBatch(boxes, np.array([1])), sizes, MAP, SPEC)

    with CassClient(server.address, timeout=60) as client:
        streamed = list(client.stream_masks(requests()))
        futures = []
        for request in requests():
            arguments = request.boxes, request.image_size, request.feature_map, request.spec
            futures.append(client.generate_mask_future(*arguments))
        later = [future.result(timeout=60) for future in futures]
    for side, *masks in zip(SIDES, streamed, later, strict=True):
        expected = generate_mask([[[0, 0, side, side]]], (64 + side, 64 + side), MAP, SPEC)
        for mask in masks:
            np.testing.assert_array_equal(np.asarray(mask), expected)


def test_closing_leaves_no_connection(server: ServerProcess) -> None:
    """Not even that of futures that were pending."""
    client = CassClient(server.address, timeout=60)
    futures = [client.generate_mask_future([None], SIZE, MAP) for _ in range(50)]
    client.close()
    assert all(future.result(timeout=60).shape == (1, *MAP) for future in futures)
    assert client._connection()._channel is None
