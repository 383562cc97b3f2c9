"""`cass plot`: the figures of the masks themselves, and with a predictor those of its scores."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from PIL import Image
from torch import nn
from typer.testing import CliRunner, Result

from cass_cli.figures import save
from cass_cli.plot import plot as plain_plot
from cass_core import InvalidRequest, MaskSpec, generate_mask
from cass_core.plotting.predictions import plot_overview
from cass_core.synthetic import Scene, street_scene
from cass_lab.commands.plot import plot
from cass_lab.scoring import load_trained
from cass_lab.training.model import Predictor

SIZE = (96, 160)


@pytest.fixture(scope="module")
def scene() -> Scene:
    """A street with boxes elsewhere, large enough to hold a patch's centre."""
    boxes = [[10, 20, 30, 40], [100, 30, 108, 50], [60, 60, 90, 90], [4, 4, 12, 12]]
    boxes += [[140, 70, 158, 94], [80, 8, 88, 16]]
    drawn = street_scene(3, image_size=SIZE, boxes=5)
    return dataclasses.replace(drawn, boxes=np.array(boxes, np.float32))


@pytest.fixture(scope="module")
def folder(scene: Scene, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The street as a data set, and a predictor trained at its size doubled."""
    folder = tmp_path_factory.mktemp("plot")
    Image.fromarray(scene.image).save(folder / "0.png")
    image = {"id": 7, "file_name": "0.png", "height": SIZE[0], "width": SIZE[1]}
    boxes = [
        {"image_id": 7, "bbox": [x1, y1, x2 - x1, y2 - y1]}
        for x1, y1, x2, y2 in scene.boxes.astype(float).tolist()
    ]
    (folder / "one.json").write_text(json.dumps({"images": [image], "annotations": boxes}))
    torch.manual_seed(1)
    model = Predictor(8)
    nn.init.normal_(model.score.weight)
    (folder / "models").mkdir()
    torch.save({"stride": 8, "predictor": model.state_dict()}, folder / "models" / "m.pt")
    record = {"key": "m", "settings": {"size": [2 * SIZE[0], 2 * SIZE[1]]}}
    (folder / "runs.jsonl").write_text(json.dumps(record) + "\n")
    return folder


def cass_plot(folder: Path, *options: str | Path, command: Callable[..., None] = plot) -> Result:
    app = typer.Typer()
    app.command()(command)
    common = [folder / "one.json", "--image", "7", "--set", "patch_size=1"]
    return CliRunner().invoke(app, [str(value) for value in (*common, *options)])


def same_picture(first: Path, second: Path) -> bool:
    with Image.open(first) as one, Image.open(second) as other:
        return one.size == other.size and one.tobytes() == other.tobytes()


def masks(boxes: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Baseline, improved and owner at stride 8."""
    specs = [spec.replace(patch_size=1) for spec in (MaskSpec.baseline(), MaskSpec.improved())]
    cells = (size[0] // 8, size[1] // 8)
    improved, owner = generate_mask([boxes], size, cells, specs[1], return_owner=True)
    return generate_mask([boxes], size, cells, specs[0])[0], improved[0], owner[0]


@pytest.mark.slow
@pytest.mark.timeout(100)
@pytest.mark.parametrize("command", [plain_plot, plot])
def test_plot(scene: Scene, folder: Path, tmp_path: Path, command: Callable[..., None]) -> None:
    options = ["--images", folder, "--out", tmp_path / "a.png"]
    assert cass_plot(folder, *options, command=command).exit_code == 0
    baseline, improved, owner = masks(scene.boxes, SIZE)
    figure = plot_overview(scene.image, scene.boxes, baseline, improved, owner=owner)
    save(figure, tmp_path / "b.png")
    assert same_picture(tmp_path / "a.png", tmp_path / "b.png")
    # Patches of four cells have their centres at 16, 48, 80 and so on.
    options = ["--images", folder, "--set", "patch_size=4", "--out", tmp_path / "a.png"]
    assert cass_plot(folder, *options, command=command).exit_code == 0
    inside = [
        any(x1 <= 16 + 32 * i <= x2 for i in range(5))
        and any(y1 <= 16 + 32 * i <= y2 for i in range(3))
        for x1, y1, x2, y2 in scene.boxes
    ]
    assert 0 < sum(inside) < len(inside)
    specs = [spec.replace(patch_size=4) for spec in (MaskSpec.baseline(), MaskSpec.improved())]
    first = generate_mask([scene.boxes], SIZE, (12, 20), specs[0])[0]
    second, owner = generate_mask([scene.boxes], SIZE, (12, 20), specs[1], return_owner=True)
    figure = plot_overview(
        scene.image, scene.boxes, first, second[0], owner=owner[0],
        without_patch=np.logical_not(inside),
    )  # fmt: skip
    save(figure, tmp_path / "b.png")
    assert same_picture(tmp_path / "a.png", tmp_path / "b.png")
    # Nobody owns a sum.
    options = ["--set", "merge=sum", "--out", tmp_path / "sum.png"]
    assert cass_plot(folder, *options, command=command).exit_code == 0


@pytest.mark.slow
@pytest.mark.timeout(100)
def test_plot_with_a_predictor(scene: Scene, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "a.png"
    options = ["--images", folder, "--predictor", folder / "models" / "m.pt", "--keep", "0.1"]
    done = cass_plot(folder, *options, "--out", out)
    assert done.exit_code == 0, done.exception
    size, boxes = (2 * SIZE[0], 2 * SIZE[1]), 2 * scene.boxes
    resized = Image.fromarray(scene.image).resize(size[::-1], Image.Resampling.BILINEAR)
    picture = np.asarray(resized)
    model = Predictor(8)
    saved = torch.load(folder / "models" / "m.pt", weights_only=True)
    model.load_state_dict(saved["predictor"])
    with torch.inference_mode():
        logits = model(torch.from_numpy(picture[None].copy()))[0][0].numpy()
    kept = logits > np.sort(logits, axis=None)[-97]  # a tenth of 24 x 40
    assert kept.sum() == 96
    # An object's patches by their centres.
    x, y = np.arange(40) * 8 + 4, np.arange(24) * 8 + 4
    lost = []
    for x1, y1, x2, y2 in boxes:
        mine = ((y1 <= y) & (y <= y2))[:, None] & ((x1 <= x) & (x <= x2))
        lost.append(not kept[mine].any())
    assert 0 < sum(lost) < len(lost)
    baseline, improved, owner = masks(boxes, size)
    figure = plot_overview(
        picture, boxes, baseline, improved, owner=owner, logits=logits, kept=kept, lost=lost
    )
    save(figure, tmp_path / "b.png")
    assert same_picture(out, tmp_path / "b.png")


@pytest.mark.timeout(100)
@pytest.mark.parametrize(
    ("options", "error"),
    [
        (["--keep", "0.2"], "--keep: is for scores: give --predictor too"),
        (["--predictor", "models/m.pt"], "--predictor: scores pictures: give --images too"),
        (
            ["--predictor", "models/m.pt", "--images", ".", "--stride", "16"],
            "--stride: is 16, the predictor was trained at 8",
        ),
        (["--predictor", "one.json", "--images", "."], "--predictor: one.json is no predictor"),
    ],
)
def test_plot_refused(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], error: str
) -> None:
    monkeypatch.chdir(folder)
    done = cass_plot(folder, *options, "--out", tmp_path / "p.png")
    assert isinstance(done.exception, InvalidRequest)
    assert str(done.exception).startswith(error)
    assert not (tmp_path / "p.png").exists()


@pytest.mark.parametrize(
    ("saved", "reason"),
    [
        ([1], "is no predictor of cass ablate"),
        ({"stride": 8}, "is no predictor of cass ablate"),
        ({"stride": 8, "levels": 3}, "scores 3 levels; a predictor of one is needed"),
    ],
)
def test_files_that_are_no_predictor_of_one_level(
    saved: object, reason: str, tmp_path: Path
) -> None:
    path = tmp_path / "saved.pt"
    torch.save(saved, path)
    with pytest.raises(InvalidRequest, match=f"^--predictor: .*saved.pt {reason}$"):
        load_trained(path, 8)
