"""Pictures from disk for figures: used as they are, turned upright, or refused by name."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cass_cli.figures import Scene, drawable, load_picture
from cass_core import InvalidRequest


def refusal(folder: Path, name: str, size: tuple[int, int] = (20, 30)) -> str:
    with pytest.raises(InvalidRequest) as caught:
        load_picture(folder, name, size, 7)
    assert caught.value.field == "--images"
    return caught.value.reason.replace(f"{folder}/", "")


def test_pixels(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    np.testing.assert_array_equal(load_picture(tmp_path, "a.png", (20, 30), 1), pixels)
    Image.fromarray(pixels[..., 0]).save(tmp_path / "grey.png")
    grey = load_picture(tmp_path, "grey.png", (20, 30), 1)
    np.testing.assert_array_equal(grey, np.repeat(pixels[..., :1], 3, axis=2))
    assert load_picture(None, "a.png", (20, 30), 1) is None


@pytest.mark.parametrize("mode", ["CMYK", "P", "RGBA", "LA", "1", "I;16"])
def test_modes(tmp_path: Path, mode: str) -> None:
    """The left half is black, the right half white, whatever a file stores them as."""
    grey = Image.new("L", (30, 20))
    grey.paste(255, (15, 0, 30, 20))
    if mode == "I;16":
        picture = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    else:
        picture = grey.convert("RGB").convert(mode)
    picture.save(tmp_path / "a.tif")
    found = load_picture(tmp_path, "a.tif", (20, 30), 1)
    assert found.shape == (20, 30, 3)
    assert not found[:, :15].any()
    assert (found[:, 15:] == 255).all()


def test_sixteen_bits_are_not_clipped(tmp_path: Path) -> None:
    pixels = np.arange(600, dtype=np.uint16).reshape(20, 30) * 100
    Image.fromarray(pixels).save(tmp_path / "a.png")
    found = load_picture(tmp_path, "a.png", (20, 30), 1)
    np.testing.assert_array_equal(found[..., 1], pixels // 256)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(tmp_path: Path, orientation: int) -> None:
    """A corner of the stored picture, and where the EXIF standard puts it when it is shown."""
    stored = np.zeros((40, 60, 3), np.uint8)
    stored[:20, :20] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(stored).save(tmp_path / "a.png", exif=exif)
    turned = orientation >= 5
    found = load_picture(tmp_path, "a.png", (60, 40) if turned else (40, 60), 1)
    corner = {1: "tl", 2: "tr", 3: "br", 4: "bl", 5: "tl", 6: "tr", 7: "br", 8: "bl"}[orientation]
    row, column = (0 if corner[0] == "t" else -1), (0 if corner[1] == "l" else -1)
    assert found[row, column].min() == 255
    assert (found == 255).mean() == pytest.approx(400 / 2400)
    if turned:  # annotated as it is stored
        np.testing.assert_array_equal(load_picture(tmp_path, "a.png", (40, 60), 1), stored)
        assert "turned by its EXIF orientation" in refusal(tmp_path, "a.png", (41, 60))


def test_names_from_windows(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    Image.new("RGB", (30, 20)).save(tmp_path / "a" / "b.png")
    assert load_picture(tmp_path, "a\\b.png", (20, 30), 1).shape == (20, 30, 3)


def test_a_large_scene_is_drawn_smaller() -> None:
    boxes = np.array([[0, 50, 8192, 100]], np.float32)
    small = drawable(Scene(np.full((100, 8192, 3), 7, np.uint8), boxes, (100, 8192)))
    assert (small.size, small.picture.shape) == ((50, 4096), (50, 4096, 3))
    assert small.xyxy.tolist() == [[0, 25, 4096, 50]]
    assert drawable(Scene(None, boxes, (1, 2**31 - 1))).size == (1, 4096)
    scene = Scene(None, boxes, (4096, 4096))
    assert drawable(scene) is scene


def test_another_size(tmp_path: Path) -> None:
    Image.new("RGB", (30, 20)).save(tmp_path / "a.png")
    assert refusal(tmp_path, "a.png", (30, 20)) == (
        "a.png is (20, 30) pixels, the annotations say (30, 20)"
    )


@pytest.mark.slow
def test_a_huge_picture(tmp_path: Path) -> None:
    """20,000 × 20,000 pixels, which Pillow takes for an attack."""
    side = 20_000
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    rows = zlib.compress(bytes(side * (1 + side // 8)), 9)
    with (tmp_path / "huge.png").open("wb") as file:
        file.write(b"\x89PNG\r\n\x1a\n")
        for kind, content in ((b"IHDR", header), (b"IDAT", rows), (b"IEND", b"")):
            file.write(struct.pack(">I", len(content)) + kind + content)
            file.write(struct.pack(">I", zlib.crc32(kind + content)))
    assert "(20000, 20000) pixels, the annotations say (20, 30)" in refusal(tmp_path, "huge.png")
    assert load_picture(tmp_path, "huge.png", (side, side), 1).shape == (side, side, 3)


def test_no_picture(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("hello")
    whole = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)).save(
        whole, "PNG"
    )
    (tmp_path / "cut.png").write_bytes(whole.getvalue()[:900])
    (tmp_path / "empty.png").touch()
    Image.fromarray(np.zeros((20, 30), np.float32)).save(tmp_path / "float.tif")
    assert refusal(tmp_path, "missing.png") == "missing.png: no such file"
    assert refusal(tmp_path, "text.png/a.png") == "text.png/a.png: no such file"
    assert refusal(tmp_path, ".").endswith(": no such file")
    assert refusal(tmp_path, "") == "image 7 has no file_name"
    assert refusal(tmp_path, "text.png") == "text.png is not a picture"
    assert refusal(tmp_path, "empty.png") == "empty.png is not a picture"
    assert refusal(tmp_path, "cut.png").startswith("cut.png cannot be read: ")
    assert refusal(tmp_path, "float.tif").startswith("float.tif has 32-bit pixels")
