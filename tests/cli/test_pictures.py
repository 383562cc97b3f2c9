"""Pictures from disk for figures: used as they are, or refused by name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cass_cli.figures import load_picture
from cass_core import InvalidRequest


def test_pixels(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    np.testing.assert_array_equal(load_picture(tmp_path, "a.png", (20, 30)), pixels)
    Image.fromarray(pixels[..., 0]).save(tmp_path / "grey.png")
    grey = load_picture(tmp_path, "grey.png", (20, 30))
    np.testing.assert_array_equal(grey, np.repeat(pixels[..., :1], 3, axis=2))
    assert load_picture(None, "a.png", (20, 30)) is None


def test_another_size(tmp_path: Path) -> None:
    Image.new("RGB", (30, 20)).save(tmp_path / "a.png")
    with pytest.raises(InvalidRequest) as caught:
        load_picture(tmp_path, "a.png", (30, 20))
    assert caught.value.field == "--images"
    assert "(20, 30) pixels, the annotations say (30, 20)" in caught.value.reason


@pytest.mark.parametrize("name", ["missing.png", "text.png", ""])
def test_no_picture(tmp_path: Path, name: str) -> None:
    (tmp_path / "text.png").write_text("hello")
    with pytest.raises(InvalidRequest) as caught:
        load_picture(tmp_path, name, (20, 30))
    assert caught.value.reason.endswith("is not a picture")
