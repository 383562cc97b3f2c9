"""What tests of containers ask a server, and what they expect of it."""

from __future__ import annotations

import urllib.request

import numpy as np

from cass_client import CassClient
from cass_core import LossSpec, MaskSpec, compute_loss, generate_mask
from tests.docker.engine import LIMIT, Container
from tests.server.support.observed import samples, value

PLAIN = ("--env", "CASS_INSECURE=true", "--publish", "127.0.0.1::50051")
"""Options of ``run`` for a server that answers on this machine without TLS."""

SIZE, CELLS = (184, 320), (23, 40)
SPEC, LOSS = MaskSpec(patch_size=1), LossSpec(kind="quality_focal")


def boxes(images: int = 4, each: int = 5) -> list[np.ndarray]:
    """Boxes of a batch, some of them beyond the border."""
    random = np.random.default_rng(7)
    corners = random.uniform((-20, -20), (300, 170), (images, each, 2))
    return list(np.concatenate([corners, corners + random.uniform(2, 90, corners.shape)], -1))


def is_right(client: CassClient) -> bool:
    """Whether the server's masks, loss and gradient are those of the core, bit by bit."""
    mask = generate_mask(boxes(), SIZE, CELLS, SPEC)
    assert 0 < mask.mean() < 1
    logits = np.random.default_rng(8).normal(size=mask.shape).astype(np.float32)
    expected = compute_loss(logits, mask, LOSS, return_grad=True)
    answer = client.compute_loss(logits, mask, loss_spec=LOSS, return_grad=True)
    return (
        client.generate_mask(boxes(), SIZE, CELLS, SPEC).tobytes() == mask.tobytes()
        and float(answer.loss) == float(expected.loss)
        and np.asarray(answer.grad).tobytes() == np.asarray(expected.grad).tobytes()
    )


def in_flight(server: Container) -> int:
    """Requests taken and not yet answered, by the metrics on their published port."""
    address = server.published(9090)
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=LIMIT) as answer:
        return int(value(samples(answer.read().decode()), "cass_requests_in_flight"))
