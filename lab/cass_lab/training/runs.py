"""One run: what determines it, carrying it out, and its place on disk."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import torch

import cass_core
from cass_cli.files import whole_file
from cass_core.errors import CassError
from cass_lab.data.dataset import Dataset
from cass_lab.data.objects import groups, object_levels, patch_ranges
from cass_lab.measures.ap import average_precision
from cass_lab.measures.keeping import (
    KEEP_RATIOS,
    ObjectMeasures,
    calibration_error,
    object_measures,
    on_object,
)
from cass_lab.training.detector import KEEP_RATIOS as DETECTOR_KEEP_RATIOS
from cass_lab.training.detector import Detector, decode
from cass_lab.training.model import LevelPredictor, Predictor
from cass_lab.training.train import Recipe, save, scores_of, train
from cass_lab.training.variants import Variant

# To be raised when networks, training or measures change: results of before are then not reused.
REVISIONS = {"recall": 1, "ap": 2}
_BATCH = 16

Measure = Literal["recall", "ap"]
MEASURES: tuple[Measure, ...] = get_args(Measure)
Record = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Run:
    """A training and its evaluation.

    Attributes:
        variant: the target and the loss.
        measure: ``recall``: a predictor alone; ``ap``: a detector with the CASS loss as auxiliary.
        seed: of the weights, the order, the flips.
        stride: pixels of a patch's side.
        recipe: how long and how fast to train.
    """

    variant: Variant
    measure: Measure
    seed: int
    stride: int
    recipe: Recipe

    @property
    def steps(self) -> int:
        """Units of progress: each epoch, and the evaluation."""
        return self.recipe.epochs + 1

    def settings(self, train_data: Dataset, test_data: Dataset) -> dict[str, Any]:
        """Everything that determines the result. A variant's name does not."""
        return {
            "revision": REVISIONS[self.measure],
            "cass": cass_core.__version__,
            "train": train_data.digest,
            "test": test_data.digest,
            "size": list(train_data.image_size),
            "stride": self.stride,
            "measure": self.measure,
            "seed": self.seed,
            "mask": dataclasses.asdict(self.variant.mask),
            "loss": dataclasses.asdict(self.variant.loss),
            "weights": dataclasses.asdict(self.variant.weights),
            "levels": self.variant.levels,
            **dataclasses.asdict(self.recipe),
        }

    def key(self, train_data: Dataset, test_data: Dataset) -> str:
        """A short name of the settings."""
        text = json.dumps(self.settings(train_data, test_data), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


class Store:
    """The folder of results: ``runs.jsonl``, and for each run a model and values by object."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.models = folder / "models"
        self._lines = folder / "runs.jsonl"

    def records(self) -> dict[str, Record]:
        """The finished runs by key."""
        if not self._lines.exists():
            return {}
        found = {}
        for line in self._lines.read_text(encoding="utf-8").splitlines():
            try:
                record = json.loads(line)
            except ValueError:  # the process was killed while it wrote
                continue
            found[record["key"]] = record
        return found

    def add(self, record: Record) -> None:
        """Append a finished run."""
        line = json.dumps(record, allow_nan=False).encode()
        try:
            with self._lines.open("a+b", buffering=0) as file:
                before = file.tell()
                torn = before > 0 and not self._ends_a_line()
                rest = (b"\n" if torn else b"") + line + b"\n"
                try:
                    while rest:
                        rest = rest[file.write(rest) :]
                except OSError:
                    file.truncate(before)
                    raise
                os.fsync(file.fileno())
        except OSError as error:
            raise CassError(f"{self._lines}: {error.strerror}") from error

    def _ends_a_line(self) -> bool:
        with self._lines.open("rb") as file:
            file.seek(-1, os.SEEK_END)
            return file.read() == b"\n"

    def checkpoint(self, key: str) -> Path:
        """Where an unfinished run stands after its last epoch."""
        return self._file("checkpoints", f"{key}.pt")

    def model(self, run: Run, key: str) -> Path:
        """The trained predictor, for `cass_lab.scoring.load_trained`."""
        variant = re.sub(r"\W+", "-", run.variant.name).strip("-")
        return self._file("models", f"{variant}.{run.measure}.seed{run.seed}.{key}.pt")

    def objects(self, key: str) -> Path:
        """Recall and area of each test object."""
        return self._file("objects", f"{key}.npz")

    def _file(self, folder: str, name: str) -> Path:
        path = self.folder / folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def load_objects(self, key: str) -> ObjectMeasures:
        """What `objects` holds."""
        with np.load(self.objects(key)) as file:
            return ObjectMeasures(file["recall"], file["area"])


def carry_out(
    run: Run,
    train_data: Dataset,
    test_data: Dataset,
    store: Store,
    step_done: Callable[[], None] = lambda: None,
) -> Record:
    """Train and measure; the record still has to be added to the store.

    Args:
        run: what to do.
        train_data: to train on.
        test_data: to measure on.
        store: for the checkpoint, the model and the values by object.
        step_done: called `Run.steps` times, those before an interruption included.
    """
    key = run.key(train_data, test_data)
    torch.manual_seed(run.seed)
    model = _network(run, train_data)
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    checkpoint = store.checkpoint(key)
    seconds = train(model, run.variant, train_data, run.recipe, run.seed, checkpoint, step_done)
    if isinstance(model, Detector):
        results = _detector_results(model, test_data, run.recipe.device)
        predictor: Predictor | LevelPredictor = model.predictor
    else:
        levels = score_images(model, test_data, run.recipe.device)
        results = _recall_results(levels, test_data, store.objects(key))
        predictor = model
    trained = {
        "stride": run.stride,
        "levels": run.variant.levels,
        "predictor": predictor.state_dict(),
    }
    save(trained, store.model(run, key))
    checkpoint.unlink(missing_ok=True)
    step_done()
    return {
        "key": key,
        "variant": run.variant.name,
        "settings": run.settings(train_data, test_data),
        "results": results,
        "seconds": round(seconds, 1),
    }


def _network(run: Run, data: Dataset) -> Predictor | LevelPredictor | Detector:
    if run.measure == "ap":
        return Detector(run.stride, len(data.class_names))
    if run.variant.levels > 1:
        return LevelPredictor(run.stride, run.variant.levels)
    return Predictor(run.stride)


def score_images(
    predictor: Predictor | LevelPredictor, data: Dataset, device: str
) -> list[npt.NDArray[np.float32]]:
    """The logits of all images on each level, ``[N, n_y, n_x]``."""
    pixels = data.pixels()
    with torch.inference_mode():
        parts = [
            scores_of(predictor, torch.from_numpy(pixels[i : i + _BATCH].copy()).to(device))
            for i in range(0, len(data), _BATCH)
        ]
    return [
        np.concatenate([part.cpu().numpy() for part in level]) for level in zip(*parts, strict=True)
    ]


def _recall_results(
    levels: list[npt.NDArray[np.float32]], data: Dataset, objects: Path
) -> dict[str, Any]:
    grids = [(scores.shape[1], scores.shape[2]) for scores in levels]
    ranges = [patch_ranges(data.xyxy, data.image_size, grid) for grid in grids]
    level_of = object_levels(data.xyxy, ranges)
    measured = object_measures(levels, ranges, data.offsets, level_of)
    covered = [
        on_object(mine, data.offsets, grid).reshape(len(data), -1)
        for mine, grid in zip(ranges, grids, strict=True)
    ]
    flat = [scores.reshape(len(data), -1) for scores in levels]
    with whole_file(objects) as file:
        np.savez(file, recall=measured.recall, area=measured.area)
    return {
        "groups": {
            name: summary(measured, members)
            for name, members in groups(data.xyxy, data.labels, data.class_names)
        },
        "calibration_error": calibration_error(np.concatenate(flat, 1), np.concatenate(covered, 1)),
    }


def summary(measured: ObjectMeasures, members: npt.NDArray[np.bool_]) -> dict[str, Any]:
    """Means over the objects of a group that have any patch; None where there is none."""
    there = members & ~np.isnan(measured.area)
    recall = measured.recall[there]
    return {
        "objects": int(there.sum()),
        "recall": _by_ratio(recall),
        "vanished": _by_ratio(recall == 0),
        "area": float(measured.area[there].mean()) if there.any() else None,
    }


def _by_ratio(values: npt.NDArray[Any]) -> dict[str, float | None]:
    return {
        str(k): float(values[:, i].mean()) if len(values) else None
        for i, k in enumerate(KEEP_RATIOS)
    }


def _detector_results(model: Detector, data: Dataset, device: str) -> dict[str, Any]:
    pixels = data.pixels()
    results: dict[str, dict[str, float | None]] = {}
    for keep in DETECTOR_KEEP_RATIOS:
        found = []
        with torch.inference_mode():
            for i in range(0, len(data), _BATCH):
                output = model(torch.from_numpy(pixels[i : i + _BATCH].copy()).to(device), keep)
                found += [decode(output, k, model.stride) for k in range(len(output.scores))]
        values = average_precision(found, data)
        # JSON has no NaN.
        results[str(keep)] = {n: None if math.isnan(v) else v for n, v in values.items()}
    return {"ap": results}
