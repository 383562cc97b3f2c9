"""A server whose kernels are the GPU's answers nearly what `local:` does, and how nearly.

Triton's interpreter computes as a GPU does but for the last bits of its fast functions.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, get_args

import numpy as np
import pytest

from cass_client import CassClient
from cass_core import LossSpec, MaskSpec
from cass_core.inputs import LossInputs
from cass_core.results import HostLoss
from cass_core.specs import LossKind
from cass_core.synthetic import street_boxes
from cass_server.engines.cuda import CudaEngine
from tests.server.support.in_thread import running
from tests.server.support.processes import LIMIT
from tests.support.interpreted import kernels

pytestmark = pytest.mark.slow  # test_cuda.py has the same engine without a server

SIZE = (96, 160)
MAPS = [(12, 16), (6, 10)]
BOXES = [*street_boxes(2, 4, image_size=SIZE, seed=5), np.empty((0, 4), np.float32)]
# A half has 11 bits: below 1 its steps are 2^-11 at most.
WITHIN = {"float32": 1e-5, "float16": 2**-11, "uint8": 1.0}


class Interpreted(CudaEngine):
    """Its threads let the interpreter's NumPy compute with infinities."""

    def _fill(self, *args: Any) -> None:
        with np.errstate(all="ignore"):
            super()._fill(*args)

    def losses(self, inputs: LossInputs, checkpoint: Any = None) -> HostLoss:
        """See `CudaEngine`."""
        with np.errstate(all="ignore"):
            return super().losses(inputs, checkpoint)


@pytest.fixture(scope="module")
def clients() -> Iterator[tuple[CassClient, CassClient]]:
    """Of the server, and local."""
    with (
        kernels(),
        running(Interpreted("cpu"), slots=1) as server,
        CassClient(server.address, timeout=LIMIT) as far,
        CassClient("local:") as near,
    ):
        server.health.set(serving=True)
        yield far, near


@pytest.mark.parametrize("dtype", WITHIN)
@pytest.mark.parametrize("spec", [MaskSpec(patch_size=1), MaskSpec.baseline()])
def test_masks(clients: tuple[CassClient, CassClient], spec: MaskSpec, dtype: str) -> None:
    """Owners are the same where no two boxes tie."""
    (far, our), (near, their) = (
        client.generate_mask(BOXES, SIZE, MAPS, spec, dtype=dtype, return_owner=True)
        for client in clients
    )
    for one, other in zip(far, near, strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_allclose(
            one.astype(np.float64), other.astype(np.float64), rtol=0, atol=WITHIN[dtype]
        )
        assert one.max() > 0
    for one, other in zip(our, their, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("kind", get_args(LossKind))
def test_losses(clients: tuple[CassClient, CassClient], kind: LossKind) -> None:
    logits = np.random.default_rng(1).normal(-2, 2, (3, *MAPS[0])).astype(np.float32)
    far, near = (
        client.compute_loss(
            logits,
            boxes=BOXES,
            image_size=SIZE,
            feature_map=MAPS[0],
            mask_spec=MaskSpec(patch_size=1),
            loss_spec=LossSpec(kind=kind),
            return_grad=True,
        )
        for client in clients
    )
    assert math.isclose(far.loss, near.loss, rel_tol=1e-5)
    assert near.grad is not None
    np.testing.assert_allclose(
        far.grad, near.grad, rtol=1e-4, atol=1e-5 * float(np.abs(near.grad).max())
    )
