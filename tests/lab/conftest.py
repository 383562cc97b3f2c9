"""The drawn data of the lab's tests, decoded once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from cass_lab.data.dataset import Dataset
from tests.lab.support.drawn import SIZE, load, write_scenes


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """As in the lab's processes: sums depend on the number of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with pictures, ``train.json`` and ``test.json``."""
    folder = tmp_path_factory.mktemp("scenes")
    write_scenes(folder, "train", range(32))
    write_scenes(folder, "test", range(100, 116))
    return folder


@pytest.fixture(scope="session")
def data(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Dataset, Dataset]:
    """Train and test data of the scenes."""
    files = (scenes / "train.json", scenes / "test.json")
    return load(*files, scenes, SIZE, tmp_path_factory.mktemp("cache"))
