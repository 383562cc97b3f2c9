"""The .npz that `cass mask` writes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cass_cli.mask_file import MaskFileWriter


def shapes(*pairs: tuple[int, int]) -> np.ndarray:
    return np.array(pairs, np.int64).reshape(-1, 2)


def test_masks_of_one_shape(tmp_path: Path) -> None:
    path = tmp_path / "masks.npz"
    masks = np.arange(12, dtype=np.uint8).reshape(3, 2, 2)
    with MaskFileWriter(path, [5, 6, 7], shapes((2, 2), (2, 2), (2, 2)), "uint8") as writer:
        writer.write(masks[:2])
        writer.write(masks[2:])
    with np.load(path) as file:
        assert sorted(file.files) == ["image_ids", "masks", "offsets", "shapes"]
        assert file["masks"].dtype == np.uint8
        assert file["masks"].tolist() == masks.tolist()
        assert file["image_ids"].tolist() == [5, 6, 7]
        assert file["offsets"].tolist() == [0, 4, 8, 12]
        assert file["shapes"].tolist() == [[2, 2]] * 3


def test_masks_of_several_shapes(tmp_path: Path) -> None:
    path = tmp_path / "masks.npz"
    with MaskFileWriter(path, ["a", 1], shapes((1, 2), (2, 2)), "float16") as writer:
        writer.write(np.array([[[0, 0.5]]], np.float32))
        writer.write(np.ones((1, 2, 2), np.float32))
    with np.load(path) as file:
        assert file["image_ids"].tolist() == ["a", "1"]
        assert file["masks"].dtype == np.float16
        second = file["masks"][file["offsets"][1] : file["offsets"][2]].reshape(file["shapes"][1])
        assert second.tolist() == [[1, 1], [1, 1]]
        assert file["masks"].tolist() == [0, 0.5, 1, 1, 1, 1]


def test_no_images(tmp_path: Path) -> None:
    path = tmp_path / "masks.npz"
    with MaskFileWriter(path, [], shapes(), "float32"):
        pass
    with np.load(path) as file:
        assert file["masks"].size == 0
        assert file["offsets"].tolist() == [0]


def test_a_failure_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "masks.npz"
    path.write_bytes(b"precious")

    def fail() -> None:
        with MaskFileWriter(path, [1], shapes((1, 1)), "float32") as writer:
            writer.write(np.ones((1, 1, 1), np.float32))
            raise RuntimeError("the server went away")

    with pytest.raises(RuntimeError, match="went away"):
        fail()
    assert [p.name for p in tmp_path.iterdir()] == ["masks.npz"]
    assert path.read_bytes() == b"precious"
