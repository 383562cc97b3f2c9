"""Times of the masks: `generate_mask` beside the audited algorithm and CenterNet's heatmaps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
import torch

from benchmarks.common.measure import difference, fitted, interleaved
from benchmarks.common.workload import IMAGE_SIZE, IMAGES, MAPS
from benchmarks.core.audited import audited_masks
from benchmarks.core.heatmap import heatmaps
from cass_core import BoxBatch, MaskSpec, generate_mask
from cass_core.cpu.run import fill_mask
from cass_core.synthetic import street_boxes

# Microseconds a batch that checking and packing a plain list may take.
PACKING_BOUND = 60.0
_PAIRS_A_ROUND = 100


@dataclass(frozen=True, slots=True)
class Case:
    """A size to measure at.

    Attributes:
        feature_map: (h, w) in cells.
        boxes: boxes an image.
        bound: how many times faster than the audited algorithm the masks are to be.
    """

    feature_map: tuple[int, int]
    boxes: int
    bound: float


_BOUNDS = {"stride 32": 250, "stride 8": 800}
CASES = {stride: Case(*MAPS[stride], bound) for stride, bound in _BOUNDS.items()}


def time_masks(rounds: int) -> dict[str, dict[str, float]]:
    """Microseconds a batch of 16 images, by case and function.

    ``packing`` is what a list of arrays costs beyond the kernel, taken call by call.
    """
    results = {}
    for name, case in CASES.items():
        calls = _calls(name, case)
        seconds = interleaved(fitted(calls), rounds)
        seconds["packing"] = difference(
            calls["from a list"], calls["bare kernel"], rounds * _PAIRS_A_ROUND
        )
        results[name] = {function: value * 1e6 for function, value in seconds.items()}
    return results


def _calls(name: str, case: Case) -> dict[str, Callable[[], object]]:
    arrays = street_boxes(IMAGES, case.boxes, image_size=IMAGE_SIZE)
    tensors = [torch.from_numpy(a) for a in arrays]
    batch = BoxBatch.from_list(arrays)
    sizes = np.array([IMAGE_SIZE], np.float64)
    out = np.empty((IMAGES, *case.feature_map), np.float32)
    request = (IMAGE_SIZE, case.feature_map)
    baseline, improved = MaskSpec.baseline().replace(patch_size=1), MaskSpec(patch_size=1)

    def bare_kernel() -> None:
        mask = np.empty(out.shape, np.float32)
        fill_mask(batch, sizes, case.feature_map, improved, "float32", mask, None)

    audited = partial(audited_masks, tensors, *request, patch_size=1)
    _check(name, generate_mask(batch, *request, baseline), audited().numpy())
    return {
        "audited": audited,
        "heatmaps": partial(heatmaps, arrays, *request),
        "baseline": partial(generate_mask, batch, *request, baseline),
        "improved": partial(generate_mask, batch, *request, improved),
        "from a list": partial(generate_mask, arrays, *request, improved),
        "bare kernel": bare_kernel,
        "zeros": partial(out.fill, 0),
    }


def _check(name: str, ours: npt.NDArray[np.float32], audited: npt.NDArray[np.float32]) -> None:
    """Refuse to time two functions that do not compute the same."""
    # Float32 may put a patch centre on either side of an edge: let a few differ.
    same = np.isclose(ours, audited, atol=1e-4).mean()
    if same < 0.999:
        raise SystemExit(f"{name}: the masks differ ({same:.4%} equal)")
