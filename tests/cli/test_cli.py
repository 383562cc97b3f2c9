"""The command `cass`, as a user types it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import cass_core
from cass_cli.options import Preset, make_spec
from cass_core import InvalidRequest, MaskSpec, WeightSpec, generate_mask
from cass_core.synthetic import street_boxes, street_scene
from tests.support.programs import ended, printed


def cass(*arguments: str | Path, code: int = 0, **options: Any) -> subprocess.CompletedProcess[str]:
    done = ended("-m", "cass_cli", *arguments, env={"COLUMNS": "300"}, **options)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done


def coco(sizes: list[tuple[int, int]], boxes: list[np.ndarray]) -> dict[str, Any]:
    return {
        "images": [
            {"id": 10 + i, "height": h, "width": w, "file_name": f"{i}.png"}
            for i, (h, w) in enumerate(sizes)
        ],
        "annotations": [
            {"id": 0, "image_id": 10 + i, "bbox": [x1, y1, x2 - x1, y2 - y1]}
            for i, xyxy in enumerate(boxes)
            for x1, y1, x2, y2 in xyxy.astype(np.float64).tolist()
        ],
    }


SIZES = [(96, 160)] * 3 + [(64, 64)]
# Quarters of a pixel survive x, y, width, height exactly.
BOXES = [
    np.round(4 * street_boxes(1, n, image_size=size, seed=n)[0]) / 4
    for n, size in zip((4, 0, 7, 2), SIZES, strict=True)
]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(coco(SIZES, BOXES)))
    return path


def masks_of(path: Path, name: str = "masks") -> list[np.ndarray]:
    with np.load(path) as npz:
        masks, offsets, shapes = npz[name], npz["offsets"], npz["shapes"]
        assert npz["image_ids"].tolist() == [10, 11, 12, 13]
    flat = masks.reshape(-1)
    return [flat[offsets[i] : offsets[i + 1]].reshape(shapes[i]) for i in range(len(shapes))]


@pytest.mark.parametrize("remote", [False, True])
@pytest.mark.parametrize(
    ("options", "stride", "spec", "dtype"),
    [
        ("", 32, MaskSpec(), "float32"),
        (
            "--stride 8 --preset baseline --dtype uint8",
            8,
            MaskSpec.baseline(),
            "uint8",
        ),
        (
            "--stride 16 --set patch_size=1 --set base_sigma=[0.4,0.6] --set merge=clipped_sum "
            "--dtype float16",
            16,
            MaskSpec(patch_size=1, base_sigma=(0.4, 0.6), merge="clipped_sum"),
            "float16",
        ),
    ],
)
def test_masks(
    file: Path,
    address: str,
    remote: bool,
    options: str,
    stride: int,
    spec: MaskSpec,
    dtype: str,
) -> None:
    out = file.with_name("masks.npz")
    done = cass(
        "mask", file, "--out", out, *options.split(), *(["--server", address] if remote else [])
    )
    assert f"{out}: 4 masks of 13 boxes" in done.stderr
    for mask, boxes, (h, w) in zip(masks_of(out), BOXES, SIZES, strict=True):
        cells = (h // stride, w // stride)
        expected = generate_mask([boxes], (h, w), cells, spec, dtype=dtype)[0]
        np.testing.assert_array_equal(mask, expected)


CROWDS: list[Any] = [[[8, 8, 48, 40], [100, 60, 160, 96]], [], [[0, 0, 80, 96]], []]


def with_crowds() -> dict[str, Any]:
    content = coco(SIZES, BOXES)
    crowds = coco(SIZES, [np.array(boxes).reshape(-1, 4) for boxes in CROWDS])["annotations"]
    content["annotations"] = [box | {"iscrowd": 1} for box in crowds] + content["annotations"]
    return content


@pytest.mark.parametrize(
    ("options", "weight_spec", "remote"),
    [
        ("", WeightSpec(), False),
        ("--balance object --background-weight 0.25", WeightSpec("object", 0.25), True),
    ],
)
def test_weights(
    file: Path, address: str, options: str, weight_spec: WeightSpec, remote: bool
) -> None:
    """Crowds are ignored; objects are balanced in each image for itself."""
    file.write_text(json.dumps(with_crowds()))
    out = file.with_name("masks.npz")
    server = ["--server", address] if remote else []
    cass("mask", file, "--out", out, "--stride", "8", *options.split(), *server)
    masks, weights = masks_of(out), masks_of(out, "weights")
    for i, (h, w) in enumerate(SIZES):
        expected, answer = generate_mask(
            [BOXES[i]], (h, w), (h // 8, w // 8), return_weights=True, weight_spec=weight_spec,
            ignore=[CROWDS[i]],
        )  # fmt: skip
        np.testing.assert_array_equal(masks[i], expected[0])
        np.testing.assert_array_equal(weights[i], answer[0])
        assert (weights[i] == 0).any() == bool(CROWDS[i])
    assert weights[0].dtype == np.float32


@pytest.mark.slow
def test_figures_hatch_what_is_ignored(file: Path) -> None:
    """In a green that nothing else has, where an image has a crowd."""
    file.write_text(json.dumps(with_crowds()))
    figures = file.parent
    cass("mask", file, "--out", figures / "m.npz", "--plot", figures)
    cass("plot", file, "--image", "10", "--out", figures / "plot.png")
    for name, is_hatched in (("10", True), ("11", False), ("12", True), ("plot", True)):
        with Image.open(figures / f"{name}.png") as picture:
            red, green, blue = np.moveaxis(np.asarray(picture.convert("RGB")).astype(int), 2, 0)
        found = (green > 200) & (red < 120) & (blue < 90)
        assert (found.sum() > 100) == is_hatched


@pytest.mark.slow
def test_what_a_mask_does_not_teach_is_counted(tmp_path: Path) -> None:
    """Boxes of 8 pixels around the centres of cells of 8; patches of 4 cells have theirs at 16."""
    content = coco([(64, 64)] * 2, [np.array([[0, 0, 8, 8], [12, 12, 20, 20]]), np.zeros((0, 4))])
    box = {"image_id": 11, "bbox": [0, 0, 9, 9]}
    content["annotations"] += [box | {"iscrowd": 1}, box | {"iscrowd": 1}, box | {"ignore": True}]
    content["annotations"] += [box | {"bbox": [90, 90, 9, 9]}]
    path = tmp_path / "file.json"
    path.write_text(json.dumps(content))
    command = ["mask", path, "--out", tmp_path / "m.npz", "--stride", "8"]
    errors = cass(*command, "--set", "patch_size=4").stderr
    told = "2 crowd regions and 1 ignored object left out of masks: patches that they cover weigh 0"
    assert f"{path}: {told}\n" in errors
    assert "\n2 of 3 boxes have no patch: patch_size is 4 at stride 8, " in errors
    assert "; --set patch_size=1 gives" in errors
    errors = cass(*command).stderr
    assert "\n1 of 3 boxes have no patch: patch_size is 1 at stride 8, " in errors
    figure = ["plot", path, "--image", "10", "--out", tmp_path / "p.png", "--stride", "8"]
    errors = cass(*figure, "--set", "patch_size=4").stderr
    assert "1 of 2 boxes have no patch: patch_size is 4 at stride 8, " in errors
    assert "no patch" not in cass(*figure).stderr


def test_warnings_are_one_line(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    boxes = np.array([[70, 5, 100, 20], [80, 10, 110, 30]])
    path.write_text(json.dumps(coco([(128, 64)], [boxes])))
    errors = cass("mask", path, "--out", tmp_path / "m.npz").stderr
    assert [line[:46] for line in errors.splitlines() if "(H, W)" in line] == [
        "cass: warning: boxes reach to x = 100, y = 20,"
    ]
    assert ".py" not in errors


def test_version() -> None:
    assert cass("--version").stdout == f"cass {cass_core.__version__}\n"


def test_figures(tmp_path: Path) -> None:
    scene = street_scene(3, image_size=(96, 160), boxes=5)
    Image.fromarray(scene.image).save(tmp_path / "0.png")
    path = tmp_path / "one.json"
    path.write_text(json.dumps(coco([(96, 160)], [scene.boxes])))
    figures = tmp_path / "figures"
    cass("mask", path, "--out", tmp_path / "m.npz", "--stride", "8", "--plot", figures)
    cass("plot", path, "--image", "10", "--images", tmp_path, "--out", tmp_path / "p.png")
    for figure in (figures / "10.png", tmp_path / "p.png"):
        with Image.open(figure) as picture:
            assert min(picture.size) > 200
            low, high = picture.convert("L").getextrema()
        assert high - low > 100  # not blank


def test_info(address: str) -> None:
    assert "cass " in cass("info").stdout
    text = " ".join(cass("info", "--server", address).stdout.split())
    assert "device cpu" in text
    assert "limit: images 4,096" in text


@pytest.mark.parametrize(
    ("arguments", "code", "error"),
    [
        (["mask"], 2, "Missing argument"),
        (["mask", "nothing.json", "--out", "m.npz"], 2, "nothing.json"),
        (["mask", "FILE", "--out", "no/where/m.npz"], 1, "cass: --out: the folder"),
        (["mask", "FILE", "--out", "m.npz", "--stride", "0"], 2, "--stride"),
        (["mask", "FILE", "--out", "m.npz", "--preset", "best"], 2, "--preset"),
        (["mask", "FILE", "--out", "m.npz", "--images", "."], 1, "cass: --images: is for figures"),
        (
            ["mask", "FILE", "--out", "m.npz", "--set", "sigma=1"],
            1,
            "cass: --set: 'sigma' is not known, did you mean 'base_sigma'; one of 'patch_size', ",
        ),
        (
            ["mask", "FILE", "--out", "m.npz", "--set", "patchsize=1"],
            1,
            "cass: --set: 'patchsize' is not known, did you mean 'patch_size'; one of ",
        ),
        (
            ["mask", "FILE", "--out", "m.npz", "--set", "patch_size"],
            1,
            "cass: --set: 'patch_size' has no value: write patch_size=VALUE",
        ),
        (
            ["mask", "FILE", "--out", "m.npz", "--set", "min_size=-1"],
            1,
            "cass: mask_spec.min_size: must be a finite number at least 0, got -1",
        ),
        (
            ["mask", "FILE", "--out", "m.npz", "--set", "merge=sum", "--dtype", "uint8"],
            1,
            "cass: dtype: uint8 needs a mask_spec.merge that stays in [0, 1]",
        ),
        (
            ["mask", "FILE", "--out", "m.npz", "--background-weight", "-1"],
            1,
            "cass: weight_spec.background_weight: must be a finite number at least 0, got -1",
        ),
        (["mask", "FILE", "--out", "m.npz", "--server", "127.0.0.1:1"], 1, "cass: 127.0.0.1:1: "),
        (
            ["mask", "FILE", "--out", "m.npz", "--server", "http://localhost:50051"],
            1,
            "cass: --server: must be HOST:PORT, not a URL; write 'localhost:50051'",
        ),
        (["info", "--server", "localhost"], 1, "cass: --server: must be HOST:PORT: 'localhost' "),
        (
            ["info", "--server", "h:1", "--timeout", "0"],
            1,
            "cass: --timeout: must be a number of seconds above 0",
        ),
        (
            ["info", "--server", "h:1", "--tls-certificate", "c.pem"],
            1,
            "cass: --tls: a certificate and its key go together",
        ),
        (["plot", "FILE", "--image", "99", "--out", "p.png"], 1, "cass: image: '99' is not the id"),
        (
            ["plot", "FILE", "--image", "10", "--images", ".", "--out", "p.png"],
            1,
            "cass: --images: 0.png: no such file",
        ),
    ],
)
def test_refused(file: Path, arguments: list[str], code: int, error: str) -> None:
    before = set(file.parent.iterdir())
    arguments = [str(file) if a == "FILE" else a for a in arguments]
    assert error in cass(*arguments, code=code, cwd=file.parent).stderr
    assert set(file.parent.iterdir()) == before


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "error"),
    [
        (
            ["--token-file", "nothing"],
            "--token-file: cannot read nothing: No such file or directory",
        ),
        (["--token-file", "two words"], "--token-file: must be printable ASCII without blanks"),
        (["--tls-ca", "nothing"], "--tls-ca: cannot read nothing: No such file or directory"),
    ],
)
def test_files_for_a_server_are_named_by_their_options(
    address: str, file: Path, options: list[str], error: str
) -> None:
    (file.parent / "two words").write_text("a b")
    for command in (["info"], ["mask", file, "--out", "m.npz"]):
        done = cass(*command, "--server", address, *options, code=1, cwd=file.parent)
        assert done.stderr.splitlines()[-1] == f"cass: {error}"


def test_an_absent_server_is_advised_on_by_options() -> None:
    error = cass("info", "--server", "127.0.0.1:1", "--timeout", "5", code=1).stderr
    assert error.endswith("or compute in this process: with --server local:\n")
    assert "fallback" not in error


@pytest.mark.parametrize("value", ["2.0", "2e0", "20e-1"])
def test_whole_numbers_may_have_a_point(value: str) -> None:
    spec = make_spec(Preset.improved, [f"patch_size={value}", "min_size=3.0"])
    assert spec == MaskSpec.improved().replace(patch_size=2, min_size=3)
    assert type(spec.patch_size) is int


@pytest.mark.parametrize("value", ["1.5", "NaN", "Infinity", "true", "1e999", "0.0"])
def test_other_numbers_are_no_patch_size(value: str) -> None:
    with pytest.raises(InvalidRequest, match=r"^mask_spec\.patch_size: must be a whole number"):
        make_spec(Preset.improved, [f"patch_size={value}"])


def test_not_coco_is_refused_with_its_key(tmp_path: Path) -> None:
    path = tmp_path / "bad.json"
    path.write_text('{"images": [{"id": 1}], "annotations": []}')
    done = cass("mask", path, "--out", tmp_path / "m.npz", code=1)
    assert done.stderr == (
        "cass: images[0].height: must be a whole number of pixels, got None "
        "(--skip-invalid leaves such entries out)\n"
    )


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ([], "mask plot info"),
        (
            ["mask"],
            "FILE.json --out --stride --server --preset --set --dtype --balance "
            "--background-weight --plot --images Example:",
        ),
        (["plot"], "--image --images --out --stride Example:"),
        (["info"], "--server"),
    ],
)
def test_help(command: list[str], words: str) -> None:
    text = cass(*command, "--help").stdout
    for word in words.split():
        assert word in text


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_images(tmp_path: Path) -> None:
    """1,500 masks of 250 kB are 375 MB; a run with them needs hardly more than one with 15."""
    peaks = []
    for count in (15, 1500):
        path = tmp_path / f"{count}.json"
        path.write_text(json.dumps(coco([(2000, 2000)] * count, [BOXES[0]] * count)))
        program = (
            "import resource, sys\n"
            "from cass_cli.main import app\n"
            "app(sys.argv[1:], standalone_mode=False)\n"
            "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)\n"
        )
        command = ["mask", path, "--out", tmp_path / "m.npz", "--stride", "8"]
        told = printed("-c", program, *command, "--set", "patch_size=1")
        peaks.append(int(told.split()[-1]) * (1 if sys.platform == "darwin" else 1024))
    assert peaks[1] - peaks[0] < 60e6
