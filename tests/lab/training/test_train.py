"""Trainings on drawn scenes: they learn, and resuming gives the same."""

from __future__ import annotations

import resource
from pathlib import Path

import numpy as np
import pytest
import torch

from cass_core import CassError
from cass_lab.data.dataset import Dataset
from cass_lab.measures.blind import training_prior
from cass_lab.measures.keeping import ObjectMeasures
from cass_lab.training.detector import Detector
from cass_lab.training.model import Predictor
from cass_lab.training.runs import Run, Store, carry_out, score_images, summary
from cass_lab.training.train import Recipe, save, train
from cass_lab.training.variants import VARIANTS

RECIPE = Recipe(epochs=12, batch_size=4, learning_rate=0.01, device="cpu")
Data = tuple[Dataset, Dataset]


def predictor(seed: int) -> Predictor:
    torch.manual_seed(seed)
    return Predictor(8)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["baseline", "object weights, bce", "level_ranges, cornernet"])
def test_a_predictor_learns(name: str, data: Data, tmp_path: Path) -> None:
    run = Run(VARIANTS[name], "recall", 0, 8, RECIPE)
    store = Store(tmp_path)
    record = carry_out(run, *data, store)
    recall = np.nanmean(store.load_objects(record["key"]).recall, axis=0)
    # A tenth of the patches, taken blindly, has a tenth of what is there. Better than that is to
    # know where objects were in training, and better still to look.
    blind = np.nanmean(training_prior(data, 8).recall, axis=(0, 1))
    assert blind[1] > 0.5
    assert 1 - recall[1] < 0.6 * (1 - blind[1])
    assert record["results"]["groups"]["all"]["recall"]["0.1"] == pytest.approx(recall[1], abs=1e-6)


def test_resuming_gives_the_same(data: Data, tmp_path: Path) -> None:
    recipe = Recipe(epochs=3, batch_size=4, learning_rate=0.01, device="cpu")
    whole = predictor(1)
    train(whole, VARIANTS["improved"], data[0], recipe, 1, tmp_path / "whole.pt")

    class Killed(Exception):
        pass

    def kill() -> None:
        raise Killed

    for _ in range(2):  # killed after the first epoch, and after what it takes up again
        with pytest.raises(Killed):
            train(predictor(1), VARIANTS["improved"], data[0], recipe, 1, tmp_path / "cut.pt", kill)
    assert torch.load(tmp_path / "cut.pt", weights_only=True)["epochs"] == 1
    resumed = predictor(2)  # what it is before does not count
    epochs = []
    train(
        resumed,
        VARIANTS["improved"],
        data[0],
        recipe,
        1,
        tmp_path / "cut.pt",
        lambda: epochs.append(1),
    )
    assert len(epochs) == 3
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_a_torn_checkpoint_is_none(data: Data, tmp_path: Path) -> None:
    recipe = Recipe(epochs=2, batch_size=4, learning_rate=0.01, device="cpu")
    models = []
    whole = tmp_path / "whole.pt"
    for checkpoint, length in ((whole, None), (tmp_path / "empty.pt", 0), (tmp_path / "cut.pt", 9)):
        if length is not None:
            checkpoint.write_bytes(whole.read_bytes()[:length])
        model = predictor(1)
        train(model, VARIANTS["improved"], data[0], recipe, 1, checkpoint)
        models.append(model.state_dict())
    for other in models[1:]:
        assert all(torch.equal(value, other[name]) for name, value in models[0].items())


def test_seeds_differ(data: Data, tmp_path: Path) -> None:
    recipe = Recipe(epochs=1, batch_size=4, learning_rate=0.01, device="cpu")
    scores = []
    for seed in (0, 1, 0):
        model = predictor(seed)
        train(model, VARIANTS["baseline"], data[0], recipe, seed, tmp_path / f"{len(scores)}.pt")
        scores.append(score_images(model, data[1], "cpu"))
    assert np.array_equal(scores[0], scores[2])
    assert not np.array_equal(scores[0], scores[1])


@pytest.mark.slow
def test_a_detector_learns(data: Data, tmp_path: Path) -> None:
    run = Run(VARIANTS["baseline, bce"], "ap", 0, 8, Recipe(30, 4, 0.01, "cpu"))
    # On what it was trained on: a few seconds are too short for other scenes.
    record = carry_out(run, data[0], data[0], Store(tmp_path))
    ap = record["results"]["ap"]
    assert ap["1.0"]["AP50"] > 0.1
    assert set(ap) == {"0.3", "0.5", "1.0"}


def test_recall_of_before_is_reused(data: Data) -> None:
    # The numbers of recall and how they come about are those of the first revision.
    recall, ap = (Run(VARIANTS["baseline"], m, 0, 8, RECIPE) for m in ("recall", "ap"))
    assert recall.settings(*data)["revision"] == 1
    assert ap.settings(*data)["revision"] == 2


def test_a_group_without_patches_is_null(tmp_path: Path) -> None:
    measured = ObjectMeasures(np.full((1, 5), np.nan, np.float32), np.full(1, np.nan, np.float32))
    store = Store(tmp_path)
    store.add({"key": "a", "results": summary(measured, np.ones(1, np.bool_))})
    results = store.records()["a"]["results"]
    assert results["area"] is None
    assert set(results["recall"].values()) == {None}


def test_the_head_sees_kept_patches_alone(data: Data) -> None:
    torch.manual_seed(0)
    model = Detector(8, 3).eval()
    images = torch.from_numpy(data[1].pixels()[:2].copy())
    seen = []
    for block in model.blocks:
        block.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.inference_mode():
        output = model(images, 0.25)
    assert output.kept.flatten(1).sum(1).tolist() == [60, 60]
    assert len(seen) == 2
    for features in seen:
        assert not features.permute(0, 2, 3, 1)[~output.kept].any()
    assert (output.scores[0][~output.kept[0]] <= output.scores[0][output.kept[0]].min()).all()


def test_results_on_a_full_disk(tmp_path: Path) -> None:
    """The line that does not fit is gone, and nothing of it is taken for a result."""
    store = Store(tmp_path)
    store.add({"key": "a"})
    before = (tmp_path / "runs.jsonl").read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 5, limits[1]))
    try:
        with pytest.raises(CassError, match=r"runs\.jsonl: File too large$"):
            store.add({"key": "b"})
        with pytest.raises(CassError, match=r"b\.pt: File too large; it is not written$"):
            save(torch.zeros(1000), store.checkpoint("b"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (tmp_path / "runs.jsonl").read_bytes() == before
    assert list((tmp_path / "checkpoints").iterdir()) == []
    store.add({"key": "c"})
    assert list(store.records()) == ["a", "c"]
