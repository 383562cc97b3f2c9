"""The two ways a mask is made, behind one form: compiled loops, and the GPU's kernels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import pytest
import torch

from cass_core import MaskSpec, generate_mask
from cass_core.inputs import MaskInputs
from tests.support.interpreted import kernels


class MakeMask(Protocol):
    """Boxes of each image in, NumPy out; the arguments are those of `generate_mask`."""

    def __call__(
        self,
        boxes: Sequence[Any],
        image_size: Any,
        feature_map: Any,
        spec: MaskSpec = ...,
        dtype: str = ...,
        return_owner: bool = ...,
        **weighting: Any,
    ) -> Any:
        """The mask, or a tuple of it, the owner map and the weights; the latter as requested."""


def compiled(
    boxes: Sequence[Any],
    image_size: Any,
    feature_map: Any,
    spec: MaskSpec = MaskSpec(),  # noqa: B008 - frozen
    dtype: str = "float32",
    return_owner: bool = False,
    **weighting: Any,
) -> Any:
    """By `generate_mask` on NumPy boxes."""
    return generate_mask(
        [np.asarray(b, np.float32).reshape(-1, 4) for b in boxes],
        image_size,
        feature_map,
        spec,
        dtype=dtype,
        return_owner=return_owner,
        **weighting,
    )


def interpreted(
    boxes: Sequence[Any],
    image_size: Any,
    feature_map: Any,
    spec: MaskSpec = MaskSpec(),  # noqa: B008 - frozen
    dtype: str = "float32",
    return_owner: bool = False,
    *,
    return_weights: bool = False,
    **weighting: Any,
) -> Any:
    """By the kernels that a GPU would run."""
    from cass_core.ops.backend import make_masks
    from cass_core.results import arrange_masks

    tensors = [torch.as_tensor(np.asarray(b, np.float32).reshape(-1, 4)) for b in boxes]
    inputs = MaskInputs.check(tensors, image_size, feature_map, spec, dtype, return_owner)
    if return_weights:
        names = ("weight_spec", "valid_region", "ignore", "box_weights")
        inputs = inputs.weighted(*(weighting.get(name) for name in names))
    with kernels():
        return _to_numpy(arrange_masks(inputs, *make_masks(inputs, torch.device("cpu"))))


def _to_numpy(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.float().numpy() if value.dtype == torch.bfloat16 else value.numpy()
    return type(value)(_to_numpy(part) for part in value)


both_paths = pytest.mark.parametrize("make", [compiled, interpreted])
"""Runs a test with either of them as ``make``."""


def both_paths_of(numbers: range) -> pytest.MarkDecorator:
    """As `both_paths`, with each of the numbers; of the slow kernels `make test` takes some."""
    kept = numbers[::24]
    slow = pytest.mark.slow
    return pytest.mark.parametrize(
        ("make", "number"),
        [(compiled, number) for number in numbers]
        + [pytest.param(interpreted, n, marks=[slow] * (n not in kept)) for n in numbers],
    )
