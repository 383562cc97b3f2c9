"""Times of the masks: `generate_mask` beside the audited algorithm and CenterNet's heatmaps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from benchmarks.common.measure import difference, fitted, interleaved, judged
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


def mask_bounds(stride: str, times: dict[str, float]) -> dict[str, dict[str, Any]]:
    """The bounds of a stride's times, and whether they hold."""
    return {
        "audited / improved": judged(times["audited"] / times["improved"], least=BOUNDS[stride]),
        "µs of packing a list": judged(times["packing"], most=PACKING_BOUND),
    }


def compared(
    arrays: Sequence[npt.NDArray[np.float32]],
    image_size: tuple[int, int],
    feature_map: tuple[int, int],
) -> dict[str, Callable[[], object]]:
    """`generate_mask`, what it replaces, and the least that any of them has to do."""
    sizes = (image_size, feature_map)
    return {
        "audited": partial(audited_masks, [*map(torch.from_numpy, arrays)], *sizes, patch_size=1),
        "heatmaps": partial(heatmaps, arrays, *sizes),
        "improved": partial(generate_mask, BoxBatch.from_list(arrays), *sizes, SPEC),
        "zeros": partial(np.empty((len(arrays), *feature_map), np.float32).fill, 0),
    }


def _calls(stride: str) -> dict[str, Callable[[], Any]]:
    feature_map, boxes = MAPS[stride]
    arrays = street_boxes(IMAGES, boxes, image_size=IMAGE_SIZE)
    batch, sizes = BoxBatch.from_list(arrays), (IMAGE_SIZE, feature_map)
    calls: dict[str, Callable[[], Any]] = {
        **compared(arrays, *sizes),
        "baseline": partial(generate_mask, batch, *sizes, MaskSpec.baseline()),
        "from a list": partial(generate_mask, arrays, *sizes, SPEC),
        "bare kernel": partial(kernel_masks, batch, feature_map),
    }
    # Float32 may put a patch centre on either side of an edge: let a few differ.
    same = np.isclose(calls["baseline"](), calls["audited"]().numpy(), atol=1e-4).mean()
    if same < 0.999:
        raise SystemExit(f"{stride}: the masks differ ({same:.4%} equal)")
    return calls
