"""A process of data-parallel training, started as RANK FOLDER; prints its gradient."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from cass_core import CassLoss, LossSpec
from cass_core.synthetic import street_boxes

BATCH, SIZE, MAPS = 4, (32, 48), [(4, 6), (2, 3)]


def boxes_of(images: Iterable[int]) -> list[Tensor]:
    """As many boxes as the image's number, and one."""
    return [
        torch.from_numpy(street_boxes(1, image + 1, image_size=SIZE, seed=image)[0])
        for image in images
    ]


class Rows(nn.Module):
    """Scores of the tokens of two levels, in a row."""

    def __init__(self) -> None:
        super().__init__()
        self.fine, self.coarse = nn.Conv2d(3, 1, 8, 8), nn.Conv2d(3, 1, 16, 16)

    def forward(self, images: Tensor) -> Tensor:
        """``[B, 30]``."""
        return torch.cat([level(images).flatten(1) for level in (self.fine, self.coarse)], dim=1)


def network() -> Rows:
    """Always the same weights."""
    torch.manual_seed(1)
    return Rows()


def gradient(model: nn.Module) -> Tensor:
    """Of all parameters, in a row."""
    found = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
    return torch.cat(found)


def main(rank: int, folder: str) -> None:
    """Half of the batch; the other process has the other half."""
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2
    )
    images = torch.randn(BATCH, 3, *SIZE, generator=torch.Generator().manual_seed(2))
    mine = slice(2 * rank, 2 * rank + 2)
    boxes = boxes_of(range(BATCH)[mine])
    count = torch.tensor(float(sum(map(len, boxes))))
    torch.distributed.all_reduce(count)
    model = nn.parallel.DistributedDataParallel(network())
    loss = CassLoss(loss_spec=LossSpec(kind="bce", reduction="per_object"))
    loss(model(images[mine]), boxes, SIZE, MAPS, num_boxes=count.item() / 2).backward()
    print(json.dumps(gradient(model).tolist()))
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
