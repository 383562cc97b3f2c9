"""What a predictor has that looks at no picture and only knows where objects were in training."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from cass_lab.data.dataset import Dataset
from cass_lab.data.objects import patch_ranges
from cass_lab.measures.keeping import ObjectMeasures, object_measures, on_object

# Orders of patches with equal scores to average over.
_DRAWS = 10


def training_prior(data: tuple[Dataset, Dataset], stride: int) -> ObjectMeasures:
    """Measures of the same scores for every test image: how often a patch was on an object.

    Training shows each image as often flipped left to right as not, so both count. Patches with
    equal scores, such as all that were never on an object, are kept in random order: row by row
    would favour objects at the top.

    Args:
        data: train and test data.
        stride: pixels of a patch's side.

    Returns:
        The measures with an axis of random orders before the others: ``[D, M, K]`` and ``[D, M]``.
    """
    train, test = data
    grid = (test.image_size[0] // stride, test.image_size[1] // stride)
    train_ranges, test_ranges = (patch_ranges(d.xyxy, d.image_size, grid) for d in data)
    covered = on_object(train_ranges, train.offsets, grid).sum(0)
    often = covered + covered[:, ::-1]
    only = np.zeros(len(test.xyxy), np.int64)
    rng = np.random.default_rng(0)
    drawn = [
        object_measures(
            [_in_random_order(often, len(test), rng)], [test_ranges], test.offsets, only
        )
        for _ in range(_DRAWS)
    ]
    return ObjectMeasures(
        np.stack([measures.recall for measures in drawn]),
        np.stack([measures.area for measures in drawn]),
    )


def _in_random_order(
    counts: npt.NDArray[np.int64], num_images: int, rng: np.random.Generator
) -> npt.NDArray[np.float64]:
    """Scores ``[N, n_y, n_x]`` in the order of whole numbers, equal ones at random."""
    below_one: npt.NDArray[np.float64] = rng.random((num_images, *counts.shape))
    return counts + below_one
