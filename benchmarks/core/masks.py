"""Times of the masks: `generate_mask` beside the audited algorithm and CenterNet's heatmaps."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import torch

from benchmarks.common.measure import difference, fitted, interleaved
from benchmarks.common.workload import IMAGE_SIZE, IMAGES, MAPS, SPEC, kernel_masks
from benchmarks.core.audited import audited_masks
from benchmarks.core.heatmap import heatmaps
from cass_core import BoxBatch, MaskSpec, generate_mask
from cass_core.synthetic import street_boxes

BOUNDS = {"stride 32": 250, "stride 8": 800}
"""How many times faster than the audited algorithm the masks are to be."""
PACKING_BOUND = 60.0
"""Microseconds per batch that checking and packing a plain list may take."""
_PAIRS_A_ROUND = 100


def time_masks(rounds: int) -> dict[str, dict[str, float]]:
    """Microseconds per batch of 16 images, by stride and function.

    ``packing`` is what a list of arrays costs beyond the kernel, taken call by call.
    """
    results = {}
    for stride in BOUNDS:
        calls = _calls(stride)
        seconds = interleaved(fitted(calls), rounds)
        pairs = rounds * _PAIRS_A_ROUND
        seconds["packing"] = difference(calls["from a list"], calls["bare kernel"], pairs)
        results[stride] = {function: value * 1e6 for function, value in seconds.items()}
    return results


def _calls(stride: str) -> dict[str, Callable[[], object]]:
    feature_map, boxes = MAPS[stride]
    arrays = street_boxes(IMAGES, boxes, image_size=IMAGE_SIZE)
    tensors = [torch.from_numpy(a) for a in arrays]
    batch, sizes = BoxBatch.from_list(arrays), (IMAGE_SIZE, feature_map)
    baseline = partial(generate_mask, batch, *sizes, MaskSpec.baseline())
    audited = partial(audited_masks, tensors, *sizes, patch_size=1)
    # Float32 may put a patch centre on either side of an edge: let a few differ.
    same = np.isclose(baseline(), audited().numpy(), atol=1e-4).mean()
    if same < 0.999:
        raise SystemExit(f"{stride}: the masks differ ({same:.4%} equal)")
    return {
        "audited": audited,
        "heatmaps": partial(heatmaps, arrays, *sizes),
        "baseline": baseline,
        "improved": partial(generate_mask, batch, *sizes, SPEC),
        "from a list": partial(generate_mask, arrays, *sizes, SPEC),
        "bare kernel": partial(kernel_masks, batch, feature_map),
        "zeros": partial(np.empty((IMAGES, *feature_map), np.float32).fill, 0),
    }
