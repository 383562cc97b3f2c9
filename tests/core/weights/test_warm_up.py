"""What a server compiles at its start is what its requests need."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from cass_core import WeightSpec, compute_loss, generate_mask
from cass_core.arrays import read_only


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_one_kernel_of_each(dtype: str) -> None:
    from cass_core.cpu import loss_weights, weighing, weights

    weighing.warm_up()
    kernels: list[Any] = [weights.weigh_images, weights.share_out, loss_weights.settle]
    before = [len(kernel.signatures) for kernel in kernels]
    box = read_only(np.array([[1, 1, 6, 6]], np.float32))
    box_weights = read_only(np.ones(1, np.float32))
    for options in (
        {},
        {"valid_region": box, "ignore": [box], "box_weights": box_weights},
        {"weight_spec": WeightSpec("object"), "box_weights": np.ones(1, np.float32)},
    ):
        masks, found = generate_mask(
            [box], (8, 8), [(8, 8), (4, 4)], return_weights=True, dtype=dtype, **options
        )
        compute_loss(np.zeros((1, 8, 8), np.float32), masks[0], weights=read_only(found[0]))
    assert [len(kernel.signatures) for kernel in kernels] == before
