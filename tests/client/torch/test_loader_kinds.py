"""MaskCollate and MaskTargets in every kind of loader that torch has."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    SequentialSampler,
    get_worker_info,
)

from cass_client import CassClient
from cass_client.torch import MaskCollate, MaskTargets
from cass_core import generate_mask
from cass_core.synthetic import street_boxes
from tests.support.compare import same

pytestmark = [
    pytest.mark.timeout(110),
    pytest.mark.filterwarnings("ignore:This DataLoader will create"),
    # Threads (of gRPC, numba) beside a fork.
    pytest.mark.filterwarnings("ignore:.*is multi-threaded, use of fork"),
]

SIZE, MAP, SAMPLES = (32, 48), (4, 6), 12
BOXES = [torch.from_numpy(street_boxes(1, 3, image_size=SIZE, seed=i)[0]) for i in range(SAMPLES)]
EXPECTED = generate_mask(BOXES, SIZE, MAP)


def sample(index: int) -> tuple[Tensor, dict[str, Any]]:
    return torch.zeros(3, *SIZE), {"boxes": BOXES[index], "index": index}


class Scenes(Dataset[Any]):
    def __len__(self) -> int:
        return SAMPLES

    def __getitem__(self, index: int) -> Any:
        return sample(index)


class Stream(IterableDataset[Any]):
    """Each worker has its share."""

    def __iter__(self) -> Iterator[Any]:
        worker = get_worker_info()
        first, step = (0, 1) if worker is None else (worker.id, worker.num_workers)
        return map(sample, range(first, SAMPLES, step))


def mark(_: int) -> None:
    os.environ["MARKED"] = "yes"


class Marked(Scenes):
    """Samples that are there only in workers that were set up."""

    def __getitem__(self, index: int) -> Any:
        assert os.environ["MARKED"] == "yes"
        return sample(index)


KINDS: dict[str, dict[str, Any]] = {
    "shuffled": {"dataset": Scenes(), "batch_size": 4, "shuffle": True},
    "iterable": {"dataset": Stream(), "batch_size": 4},
    "batch sampler": {
        "dataset": Scenes(),
        "batch_sampler": BatchSampler(SequentialSampler(range(SAMPLES)), 5, drop_last=False),
    },
    "set up": {"dataset": Marked(), "batch_size": 4, "worker_init_fn": mark},
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("way", ["before", "after", "loop"])
def test_kinds_of_loaders(kind: str, way: str) -> None:
    client = CassClient("local:")
    collate: Any = MaskCollate(client, strides=8, after=way == "after")
    loader: Any = DataLoader(
        **KINDS[kind],
        num_workers=2,
        multiprocessing_context="fork",
        collate_fn=transposed if way == "loop" else collate,
    )
    if way == "loop":
        loader = MaskTargets(client, strides=8).wrap(loader)
    seen = []
    for _, targets, masks in loader:
        indices = [target["index"] for target in targets]
        same(masks, EXPECTED[indices])
        seen += indices
    assert sorted(seen) == list(range(SAMPLES))


def transposed(samples: Any) -> Any:
    return tuple(zip(*samples, strict=True))


def test_a_distributed_sampler() -> None:
    """Two ranks have all samples between them, in a new order each epoch."""
    orders = []
    for epoch in range(2):
        seen = []
        for rank in range(2):
            sampler: Any = DistributedSampler(Scenes(), num_replicas=2, rank=rank, seed=3)
            wrapped = MaskTargets(CassClient("local:"), strides=8).wrap(
                DataLoader(Scenes(), 3, sampler=sampler, collate_fn=transposed)
            )
            wrapped.sampler.set_epoch(epoch)
            for _, targets, masks in wrapped:
                indices = [target["index"] for target in targets]
                same(masks, EXPECTED[indices])
                seen += indices
        assert sorted(seen) == list(range(SAMPLES))
        orders.append(seen)
    assert orders[0] != orders[1]
