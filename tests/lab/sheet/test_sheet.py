"""The contact sheet in a real browser: what it counts, shows and lets pass."""

from __future__ import annotations

import base64
import dataclasses
import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import typer
from PIL import Image
from torch import nn
from typer.testing import CliRunner, Result

from cass_cli.figures import stretch, stretch_boxes
from cass_core import InvalidRequest, MaskSpec, generate_mask
from cass_lab.commands.sheet import sheet
from cass_lab.data.dataset import Dataset
from cass_lab.data.objects import patch_ranges
from cass_lab.measures.keeping import KEEP_RATIOS, object_measures
from cass_lab.scoring import load_trained, pruned
from cass_lab.sheet.page import SheetImage, sheet_page
from cass_lab.training.model import Predictor
from cass_lab.training.runs import Run, Store, score_images
from cass_lab.training.train import Recipe, save
from cass_lab.training.variants import VARIANTS
from tests.lab.sheet.browser import dom_of, needs_browser, run_in
from tests.lab.support.drawn import load

HOSTILE = '</script><script>document.title="owned"</script><img src=x onerror=alert(1)>&amp;"'
RECIPE = Recipe(1, 4, 5e-3, "cpu")
SIZE = (64, 128)  # other than the drawn pictures'


def cass(*arguments: str | Path) -> Result:
    app = typer.Typer()
    app.command("sheet")(sheet)
    return CliRunner().invoke(app, list(map(str, arguments)))


@pytest.fixture(scope="module")
def predictor(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As a run leaves it; untrained, but with scores that differ."""
    store = Store(tmp_path_factory.mktemp("out"))
    torch.manual_seed(0)
    model = Predictor(8)
    nn.init.normal_(model.score.weight)
    path = store.model(Run(VARIANTS["improved - focal"], "recall", 3, 8, RECIPE), "abc")
    assert path.name == "improved-focal.recall.seed3.abc.pt"
    save({"stride": 8, "predictor": model.state_dict()}, path)
    store.add({"key": "abc", "settings": {"size": list(SIZE)}})
    return path


@pytest.fixture(scope="module")
def stretched(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    files = (scenes / "train.json", scenes / "test.json")
    return load(*files, scenes, SIZE, tmp_path_factory.mktemp("cache"))[1]


@pytest.fixture(scope="module")
def page(scenes: Path, predictor: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("page") / "sheet.html"
    options = ["--images", scenes, "--predictor", predictor, "--out", out]
    done = cass(scenes / "test.json", *options)
    assert done.exit_code == 0, done.exception
    assert done.stdout.strip() == str(out)
    return out


def image_of(
    image_id: str, boxes: list[list[float]], labels: list[int], logits: np.ndarray
) -> SheetImage:
    """Patches of 8 pixels."""
    rng = np.random.default_rng(0)
    rows, columns = logits.shape
    mask = np.zeros((rows, columns), np.uint8)
    mask[1, 2] = 255
    return SheetImage(
        image_id,
        f"{image_id}.png",
        rng.integers(0, 256, (8 * rows, 8 * columns, 3), np.uint8),
        np.array(boxes, np.float32).reshape(-1, 4),
        np.array(labels, np.int64),
        np.zeros_like(mask),
        mask,
        np.where(mask, 0, -1).astype(np.int32),
        np.array([box[0] >= 60 for box in boxes], np.bool_),
        logits.astype(np.float32),
    )


@pytest.fixture
def by_hand(tmp_path: Path) -> Path:
    """Patches in reading order are kept in that order: all scores of an image are equal."""
    out = tmp_path / "hand.html"
    with sheet_page(out, HOSTILE + "{{SCRIPT}}", 8, "x.pt", [HOSTILE, "b"]) as add:
        # The first row's last two patches, ranks 4 and 5; three of rank 12 to 14; one beyond.
        boxes = [[32, 0, 48, 8], [0, 16, 24, 24], [60, 0, 70, 8]]
        add(image_of(HOSTILE, boxes, [0, 1, 1], np.zeros((4, 6))))
        add(image_of("none", [], [], np.zeros((4, 6))))
        # 40 x 24 pixels: side 31. Ranks 0 to 14 but for the last column.
        add(image_of("large", [[0, 0, 40, 24]], [1], np.zeros((4, 6))))
    return out


NUMBERS = """
    const numbers = () => [...document.querySelectorAll("#numbers tr")].map(
      (row) => [...row.children].map((cell) => cell.textContent));
    const set = (id, value) => {
      const input = document.getElementById(id);
      if (input.type === "checkbox") return input.checked === value || input.click();
      input.value = value;
      input.dispatchEvent(new Event("input"));
    };
    const text = (id) => document.getElementById(id).textContent;
    const press = (key, target = document.body) => {
      target.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
      return settled();
    };
"""


@needs_browser
@pytest.mark.timeout(200)
def test_numbers(by_hand: Path, tmp_path: Path) -> None:
    script = (
        NUMBERS
        + """
        const found = {};
        for (const keep of [1, 20, 21, 23, 50, 100]) {
          set("keep", keep);
          await settled();
          found[keep] = [numbers(), text("total")];
        }
        return found;
    """
    )
    found = run_in(by_hand, script, tmp_path)
    # Of 24 patches 1, 5, 5, 6 (5.52), 12 and 24 are kept.
    first, second = ["50.0 %", "0"], ["0.0 %", "1"]
    rows = [
        ["all", "3", "25.0 %", "1"],
        ["< 16 px", "3", "25.0 %", "1"],
        [HOSTILE, "1", *first],
        ["b", "2", *second],
    ]
    assert found["20"][0] == found["21"][0] == rows
    assert found["20"][1] == "All 3 images: 1 of 3 objects are lost at 20 %."
    assert found["1"][1] == "All 3 images: 2 of 3 objects are lost at 1 %."
    assert found["23"][0][2] == [HOSTILE, "1", "100.0 %", "0"]
    # Ranks 12 to 14 are not among the first 12.
    assert found["50"][0][3] == ["b", "2", "0.0 %", "1"]
    assert found["100"][0][0] == ["all", "3", "100.0 %", "0"]


@needs_browser
@pytest.mark.timeout(100)
def test_halves_of_a_patch(tmp_path: Path) -> None:
    """A quarter of ten patches is two, and 35 % are four, as Python rounds."""
    out = tmp_path / "sheet.html"
    with sheet_page(out, "halves", 8, "x.pt", ["a"]) as add:
        boxes = [[8, 0, 16, 8], [16, 0, 24, 8], [24, 0, 32, 8]]  # ranks 1, 2, 3
        add(image_of("a", boxes, [0, 0, 0], np.array([[5, 4, 3, 2, 1], [0] * 5])))
    script = """
        set("keep", 25); await settled();
        const quarter = text("total");
        set("keep", 35); await settled();
        return [quarter, text("total")];
    """
    assert run_in(out, NUMBERS + script, tmp_path) == [
        "All 1 images: 2 of 3 objects are lost at 25 %.",
        "All 1 images: 0 of 3 objects are lost at 35 %.",
    ]


@needs_browser
@pytest.mark.timeout(200)
def test_nothing_of_the_data_set_runs(by_hand: Path, tmp_path: Path) -> None:
    assert "<title>&lt;/script&gt;&lt;script&gt;document.title=" in dom_of(by_hand, tmp_path / "p")
    script = """
        const title = document.title;
        await new Promise((done) => setTimeout(done, 100));
        return [title, document.title, document.querySelector("h1").textContent,
          document.getElementById("caption").textContent,
          document.getElementById("image").alt,
          document.getElementById("canvas").getAttribute("aria-label"),
          document.getElementById("ids").options[0].value,
          document.querySelectorAll("script").length, document.querySelectorAll("img").length];
    """
    found = run_in(by_hand, script, tmp_path)
    title = HOSTILE + "{{SCRIPT}}"
    assert found[:3] == [f"{title} – contact sheet"] * 2 + [title]
    assert found[3] == (
        f"{HOSTILE} · {HOSTILE}.png · 48 × 32 px · 1 of 3 objects have no patch (dotted)"
    )
    assert found[4] == f"Picture {HOSTILE}.png"
    assert found[5] == f"Layer improved of {HOSTILE}: 3 objects, 1 lost at 30 %"
    assert found[6] == HOSTILE
    # Three images, the sheet, the page's own script and the test's; one picture.
    assert found[7:] == [6, 1]


@needs_browser
@pytest.mark.timeout(200)
def test_moving_about(by_hand: Path, tmp_path: Path) -> None:
    script = (
        NUMBERS
        + """
        const found = [];
        const see = () => found.push(`${text("place")}: ${text("caption").slice(0, 4)}`);
        const click = (id) => { document.getElementById(id).click(); return settled(); };
        const jump = (id) => { set("wanted", id); return click("go"); };
        document.querySelector("#jump button").id = "go";
        see();
        await click("next"); see();
        await press("ArrowRight"); see();
        await press("ArrowRight"); see();            // there is no further one
        found.push(document.getElementById("next").disabled, location.hash);
        await press("Home"); see();
        await press("ArrowRight", document.getElementById("keep")); see();  // moves the slider
        await press("ArrowRight", document.getElementById("wanted")); see();
        await jump("none"); see();
        await jump("nowhere"); see();
        found.push(document.getElementById("wanted").validationMessage);
        set("only-lost", true); await settled(); see();
        set("keep", 1); await settled(); see();
        set("keep", 60); await settled(); see();     // nobody is lost
        found.push(document.getElementById("figure").hidden);
        set("only-lost", false); set("smallest", 1); await settled(); see();
        await press("4"); await press("b"); await press("k");
        found.push(document.querySelector("[name=layer]:checked").value,
          document.getElementById("boxes").checked, document.getElementById("prune").checked);
        return found;
    """
    )
    assert run_in(by_hand, script, tmp_path) == [
        "1 of 3: </sc",
        "2 of 3: none",
        "3 of 3: larg",
        "3 of 3: larg",
        True,
        "#image-2",
        *["1 of 3: </sc"] * 3,
        *["2 of 3: none"] * 2,
        "No image has this id.",
        *["1 of 1: </sc"] * 2,
        "no such image: </sc",
        True,
        "1 of 1: larg",
        "owner",
        False,
        False,
    ]


@needs_browser
@pytest.mark.timeout(200)
def test_pixels(by_hand: Path, tmp_path: Path) -> None:
    """What the canvas has over a patch: red, green, blue and opacity."""
    script = (
        NUMBERS
        + """
        const canvas = document.getElementById("canvas"), scale = canvas.width / 48;
        const at = (row, column) => [...canvas.getContext("2d").getImageData(
          (8 * column + 4) * scale, (8 * row + 4) * scale, 1, 1).data];
        set("boxes", false); set("opacity", 100); set("keep", 25);
        const found = {opened: [at(1, 2), at(1, 3)]};
        document.querySelector("[value=none]").click();
        await settled();
        found.none = [at(0, 5), at(1, 0)];
        set("prune", false);
        for (const layer of ["baseline", "improved", "difference", "owner", "scores"]) {
          document.querySelector(`[value=${layer}]`).click();
          await settled();
          found[layer] = [at(1, 2), at(1, 3)];
        }
        await document.getElementById("image").decode();
        found.picture = document.getElementById("image").naturalWidth;
        return found;
    """
    )
    found = run_in(by_hand, script, tmp_path)
    clear = [0, 0, 0, 0]
    assert found == {
        "opened": [
            [0xFC, 0xFF, 0xA4, 255],
            [0, 0, 0, 199],
        ],  # improved, the rest pruned
        "none": [clear, [0, 0, 0, 199]],  # six of 24 patches are kept, the first row; 0.78
        "baseline": [clear, clear],
        "improved": [[0xFC, 0xFF, 0xA4, 255], clear],
        "difference": [[0xB2, 0x18, 0x2B, 255], clear],
        "owner": [[0x1F, 0x77, 0xB4, 255], clear],
        "scores": [[0xFC, 0xFF, 0xA4, 255]] * 2,
        "picture": 48,
    }


@needs_browser
@pytest.mark.timeout(200)
def test_command(page: Path, stretched: Dataset, predictor: Path, tmp_path: Path) -> None:
    """The page counts as `cass ablate` does, and shows the masks of `generate_mask`."""
    script = (
        NUMBERS
        + """
        const found = {place: text("place"), about: text("about"), kept: {}, lost: {}};
        for (const keep of [5, 10, 20, 30, 50]) {
          set("keep", keep); await settled();
          found.lost[keep] = text("total");
          found.kept[keep] = [];
          for (await press("Home"); ; await press("ArrowRight")) {
            found.kept[keep].push(numbers()[0][2]);
            if (document.getElementById("next").disabled) break;
          }
        }
        found.masks = [...current.improved];
        found.owner = [...current.owner];
        return found;
    """
    )
    found = run_in(page, script, tmp_path)
    assert found["place"] == "1 of 16"
    assert found["about"] == "16 images, stride 8, scores of improved-focal.recall.seed3.abc.pt"
    grid = (SIZE[0] // 8, SIZE[1] // 8)
    trained = load_trained(predictor, 8)
    assert trained.image_size == SIZE
    one_by_one = np.stack([trained.logits(picture) for picture in stretched.pixels()])
    (scores,) = score_images(trained.predictor, stretched, "cpu")
    np.testing.assert_allclose(one_by_one, scores, atol=1e-5)
    ranges = patch_ranges(stretched.xyxy, SIZE, grid)
    only = np.zeros(len(ranges), np.int64)
    recall = object_measures([one_by_one], [ranges], stretched.offsets, only).recall
    for k, ratio in enumerate(KEEP_RATIOS):
        keep = str(round(100 * ratio))
        there = recall[~np.isnan(recall[:, k]), k]
        total = f"{(there == 0).sum()} of {len(there)} objects are lost at {keep} %."
        assert found["lost"][keep] == f"All 16 images: {total}"
        means = [
            np.nanmean(recall[a:b, k], dtype=np.float64)
            for a, b in zip(stretched.offsets[:-1], stretched.offsets[1:], strict=True)
        ]
        shown = [float(text.removesuffix(" %")) for text in found["kept"][keep]]
        assert shown == pytest.approx([100 * mean for mean in means], abs=0.0501)
    last = stretched.boxes(15, 16)
    spec = MaskSpec.improved().replace(patch_size=1)
    mask, owner = generate_mask(last, SIZE, grid, spec, dtype="uint8", return_owner=True)
    assert found["masks"] == mask.reshape(-1).tolist()
    assert found["owner"] == owner.reshape(-1).tolist()


@needs_browser
@pytest.mark.timeout(100)
def test_the_page_as_it_is(page: Path, tmp_path: Path) -> None:
    """Its own policy lets its script and its style work, and asks the network for nothing."""
    dom = dom_of(page, tmp_path)
    assert '<figure id="figure" aria-busy="false">' in dom
    assert '<span id="place" role="status">1 of 16</span>' in dom
    source = page.read_text()
    assert "default-src 'none'" in source
    assert "unsafe" not in source
    assert not re.search(r"(?:https?:)?//\w+\.\w", re.sub(r'"(?:jpeg|layers)":"[^"]*"', "", source))


@needs_browser
@pytest.mark.timeout(100)
def test_without_predictor(scenes: Path, tmp_path: Path) -> None:
    out = tmp_path / "sheet.html"
    options = ["--limit", "2", "--set", "expansion_ratio=0", "--stride", "16"]
    done = cass(scenes / "test.json", "--images", scenes, "--out", out, *options)
    assert done.exit_code == 0, done.exception
    script = (
        NUMBERS
        + """
        await press("5"); await press("k"); await press("2");
        return [text("about"), text("caption").slice(-12), numbers()[0].length,
          [...document.querySelectorAll(".scored")].every((part) => part.hidden),
          document.querySelector("[name=layer]:checked").value, [...new Set(current.improved)]];
    """
    )
    found = run_in(out, script, tmp_path)
    assert found[0] == "2 images, stride 16"
    assert found[1].endswith("160 × 96 px")
    assert found[2:5] == [2, True, "improved"]
    assert set(found[5]) == {0, 255}  # no band: nothing in between


def test_stretching(scenes: Path, stretched: Dataset, data: tuple[Dataset, Dataset]) -> None:
    """As the pictures and boxes that a predictor is trained on."""
    original = data[1]
    for i in (0, 15):
        found = stretch(original.pixels()[i], SIZE)
        np.testing.assert_array_equal(found, stretched.pixels()[i])
    boxes = stretch_boxes(original.xyxy, original.image_size, SIZE)
    np.testing.assert_allclose(boxes, stretched.xyxy, rtol=1e-6)


def test_pruned() -> None:
    """Six patches, three kept: of equal scores the first."""
    logits = np.array([[0.0, 2.0, 1.0], [1.0, 1.0, -1.0]])
    boxes = np.array([[8.0, 0, 24, 8], [8, 8, 24, 16], [16, 8, 24, 16], [90, 0, 99, 8]])
    kept, lost = pruned(logits, boxes, (16, 24), 0.5)
    assert kept.tolist() == [[False, True, True], [True, False, False]]
    assert lost.tolist() == [False, True, True, False]


def without_run(folder: Path) -> Path:
    path = folder / "lone.pt"
    save({"stride": 8, "predictor": Predictor(8).state_dict()}, path)
    return path


def no_model(folder: Path) -> Path:
    path = folder / "other.pt"
    path.write_bytes(b"not a model")
    return path


@pytest.mark.parametrize(
    ("make", "options", "error"),
    [
        (None, ["--stride", "16"], "--stride: is 16, the predictor was trained at 8"),
        (None, ["--set", "patch_size=2"], "--set: patch_size and merge cannot be changed"),
        (None, ["--set", "merge=clipped_sum"], "--set: patch_size and merge cannot be changed"),
        (without_run, [], "--predictor: "),
        (no_model, [], "--predictor: "),
        (lambda folder: folder / "nothing.pt", [], "--predictor: "),
    ],
)
def test_refused(
    make: Callable[[Path], Path] | None,
    options: list[str],
    error: str,
    scenes: Path,
    predictor: Path,
    tmp_path: Path,
) -> None:
    model = make(tmp_path) if make else predictor
    out = tmp_path / "sheet.html"
    common = [scenes / "test.json", "--images", scenes, "--out", out]
    done = cass(*common, "--predictor", model, *options)
    assert isinstance(done.exception, InvalidRequest)
    assert str(done.exception).startswith(error)
    assert not list(tmp_path.glob("sheet*"))


def test_a_missing_picture_leaves_no_file(scenes: Path, tmp_path: Path) -> None:
    content: dict[str, Any] = json.loads((scenes / "test.json").read_text())
    content["images"][3]["file_name"] = "gone.png"
    file, out = tmp_path / "test.json", tmp_path / "sheet.html"
    file.write_text(json.dumps(content))
    out.write_text("of before")
    done = cass(file, "--images", scenes, "--out", out)
    assert "gone.png: no such file" in str(done.exception)
    assert out.read_text() == "of before"
    assert {path.name for path in tmp_path.iterdir()} == {"test.json", "sheet.html"}


def test_the_path_does_nothing_to_a_terminal(scenes: Path, tmp_path: Path) -> None:
    out = tmp_path / "a\x1b[31m.html"
    done = cass(scenes / "test.json", "--images", scenes, "--limit", "1", "--out", out)
    assert done.stdout == f"{tmp_path}/a\\x1b[31m.html\n"
    assert out.exists()


def test_a_picture_is_not_written_over(scenes: Path) -> None:
    picture = scenes / json.loads((scenes / "test.json").read_text())["images"][3]["file_name"]
    before = picture.read_bytes()
    done = cass(scenes / "test.json", "--images", scenes, "--out", picture)
    assert str(done.exception) == (f"--out: {picture} is a picture that is read: give another path")
    assert picture.read_bytes() == before


def test_large_pictures_are_shown_smaller() -> None:
    """The coordinates stay those of the whole picture."""
    image = image_of("wide", [[0, 0, 2000, 100]], [0], np.zeros((4, 6)))
    image = dataclasses.replace(image, picture=np.zeros((400, 2560, 3), np.uint8))
    assert image.facts()["size"] == (400, 2560)
    assert image.facts()["boxes"] == [[0, 0, 2000, 100]]
    with Image.open(io.BytesIO(base64.b64decode(image.block()["jpeg"]))) as picture:
        assert picture.size == (1280, 200)
