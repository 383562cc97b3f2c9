"""Trained predictors at work on pictures: scores, ranks, and which objects are lost."""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from cass_core.errors import InvalidRequest
from cass_lab.data.objects import Floats, patch_ranges
from cass_lab.measures.keeping import num_kept, ranks_of
from cass_lab.training.model import Predictor
from cass_lab.training.runs import Store

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Trained:
    """A predictor and what it takes.

    Attributes:
        predictor: ready to use.
        image_size: (H, W) in pixels that pictures were stretched to in training.
    """

    predictor: Predictor
    image_size: tuple[int, int]

    def logits(self, picture: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Logits ``[n_y, n_x]`` of a picture ``[H, W, 3]`` of `image_size`."""
        with torch.inference_mode():
            scores, _ = self.predictor(torch.from_numpy(picture[None].copy()))
        logits: npt.NDArray[np.float32] = scores[0].numpy()
        return logits


def load_trained(path: Path, stride: int) -> Trained:
    """A predictor of ``OUT/models`` with the size of its run, from ``OUT/runs.jsonl``.

    Args:
        path: the ``.pt`` file, in the folder where `cass ablate` or `cass tune` left it.
        stride: pixels of a patch's side, as the caller wants them.

    Raises:
        InvalidRequest: the file is no predictor, its run is not known, or its stride is another.
    """
    if not path.is_file():
        raise InvalidRequest("--predictor", f"{path} is not a file")
    try:
        saved = torch.load(path, weights_only=True, map_location="cpu")
        if saved.get("levels", 1) > 1:
            reason = f"{path} scores {saved['levels']} levels; a predictor of one is needed"
            raise InvalidRequest("--predictor", reason)
        predictor = Predictor(saved["stride"])
        predictor.load_state_dict(saved["predictor"])
    except (
        pickle.UnpicklingError, RuntimeError, EOFError, LookupError, TypeError, AttributeError
    ) as error:  # fmt: skip
        raise InvalidRequest("--predictor", f"{path} is no predictor of cass ablate") from error
    if predictor.stride != stride:
        raise InvalidRequest(
            "--stride", f"is {stride}, the predictor was trained at {predictor.stride}"
        )
    folder = path.absolute().parent.parent
    key = path.stem.rpartition(".")[2]
    record = Store(folder).records().get(key)
    if record is None:
        reason = f"{folder / 'runs.jsonl'}, which has the size of pictures, has no run {key}"
        raise InvalidRequest("--predictor", reason)
    height, width = record["settings"]["size"]
    return Trained(predictor.eval(), (height, width))


def best_ranks(ranks: Ints, ranges: Ints) -> Ints:
    """The best rank among each object's patches: it is lost when no more than that are kept.

    Args:
        ranks: ``[n_y, n_x]`` as of `ranks_of`.
        ranges: ``[N, 4]`` as of `cass_lab.data.objects.patch_ranges`.

    Returns:
        ``[N]``; -1 for an object without any patch, which cannot be lost.

    Example:
        >>> best_ranks(np.arange(4).reshape(2, 2), np.array([[1, 2, 0, 2], [0, 0, 0, 1]])).tolist()
        [2, -1]
    """
    best = [int(ranks[r0:r1, c0:c1].min(initial=ranks.size)) for r0, r1, c0, c1 in ranges]
    return np.array([-1 if rank == ranks.size else rank for rank in best], np.int64)


def pruned(
    logits: Floats, xyxy: Floats, image_size: tuple[int, int], keep: float
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Which patches a keep ratio leaves, and which objects lose all of theirs.

    Args:
        logits: ``[n_y, n_x]``.
        xyxy: ``[N, 4]`` boxes in pixels.
        image_size: (H, W) in pixels.
        keep: share of the patches to keep, those with the largest logits.

    Returns:
        ``[n_y, n_x]`` and ``[N]``.

    Example:
        >>> kept, lost = pruned(np.array([[3.0, 1.0]]), np.array([[8, 0, 16, 8]]), (8, 16), 0.5)
        >>> kept.tolist(), lost.tolist()
        ([[True, False]], [True])
    """
    ranks = ranks_of(logits)
    count = num_kept(logits.size, keep)
    ranges = patch_ranges(xyxy, image_size, (logits.shape[0], logits.shape[1]))
    return ranks < count, best_ranks(ranks, ranges) >= count
