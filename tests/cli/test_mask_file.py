"""The .npz that `cass mask` writes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cass_cli.mask_file import mask_file


def shapes(*pairs: tuple[int, int]) -> np.ndarray:
    return np.array(pairs, np.int64).reshape(-1, 2)


def test_masks_of_one_shape(tmp_path: Path) -> None:
    path = tmp_path / "masks.npz"
    masks = np.arange(12, dtype=np.uint8).reshape(3, 2, 2)
    weights = np.linspace(0, 2, 12, dtype=np.float32).reshape(3, 2, 2)
    with mask_file(path, [5, 6, 7], shapes((2, 2), (2, 2), (2, 2)), "uint8") as write:
        write(masks[:2], weights[:2])
        write(masks[2:], weights[2:])
    with np.load(path) as file:
        assert sorted(file.files) == ["image_ids", "masks", "offsets", "shapes", "weights"]
        assert file["masks"].dtype == np.uint8
        assert file["masks"].tolist() == masks.tolist()
        assert file["weights"].dtype == np.float32
        assert file["weights"].tolist() == weights.tolist()
        assert file["image_ids"].tolist() == [5, 6, 7]
        assert file["offsets"].tolist() == [0, 4, 8, 12]
        assert file["shapes"].tolist() == [[2, 2]] * 3


def test_masks_of_several_shapes(tmp_path: Path) -> None:
    path = tmp_path / "masks.npz"
    with mask_file(path, ["a", 1], shapes((1, 2), (2, 2)), "float16") as write:
        write(np.array([[[0, 0.5]]], np.float32), np.array([[[3, 1]]], np.float32))
        write(np.ones((1, 2, 2), np.float32), np.zeros((1, 2, 2), np.float32))
    with np.load(path) as file:
        assert file["image_ids"].tolist() == ["a", "1"]
        assert file["masks"].dtype == np.float16
        second = file["masks"][file["offsets"][1] : file["offsets"][2]].reshape(file["shapes"][1])
        assert second.tolist() == [[1, 1], [1, 1]]
        assert file["masks"].tolist() == [0, 0.5, 1, 1, 1, 1]
        assert file["weights"].tolist() == [3, 1, 0, 0, 0, 0]


def test_no_images(tmp_path: Path) -> None:
    path = tmp_path / "masks.npz"
    with mask_file(path, [], shapes(), "float32"):
        pass
    with np.load(path) as file:
        assert file["masks"].size == file["weights"].size == 0
        assert file["offsets"].tolist() == [0]


@pytest.mark.parametrize(
    ("ids", "stored"),
    [
        ([2**63, 1], [2**63, 1]),
        # No integer of NumPy holds both, and a float would hold neither.
        ([2**63, -1], [str(2**63), "-1"]),
        ([10**20, 1], [str(10**20), "1"]),
    ],
)
def test_large_ids_are_exact(tmp_path: Path, ids: list[int], stored: list[int | str]) -> None:
    with mask_file(tmp_path / "m.npz", ids, shapes((1, 1), (1, 1)), "uint8") as write:
        write(np.zeros((2, 1, 1), np.uint8), np.ones((2, 1, 1), np.float32))
    with np.load(tmp_path / "m.npz") as file:
        assert file["image_ids"].tolist() == stored


def test_a_failure_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "masks.npz"
    path.write_bytes(b"precious")

    def fail() -> None:
        with mask_file(path, [1], shapes((1, 1)), "float32") as write:
            write(*[np.ones((1, 1, 1), np.float32)] * 2)
            raise RuntimeError("the server went away")

    with pytest.raises(RuntimeError, match="went away"):
        fail()
    assert [p.name for p in tmp_path.iterdir()] == ["masks.npz"]
    assert path.read_bytes() == b"precious"
