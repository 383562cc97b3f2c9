"""A PyTorch detection loop: the loader's workers add soft masks, a small network learns them.

    python examples/torch_detection.py --server localhost:50051

Samples are (image, target) as torchvision's detection sets give them. `MaskCollate` asks for the
masks of a batch in the worker that loads it, and for weights by which each object has the same
share of the loss. With ``--remote-loss`` the loader makes no masks, and the server computes the
loss with its gradient from the boxes instead; the values are the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import torch
import typer
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from cass_client import CassClient, LossSpec, MaskSpec, WeightSpec
from cass_client.torch import MaskCollate, RemoteCassLoss
from cass_core import MaskLoss
from cass_core.synthetic import LABELS, street_scene

IMAGES, BOXES, BATCH, EPOCHS = 48, 8, 8, 4
IMAGE_SIZE, FEATURE_MAP = (96, 160), (12, 20)
MASKS = MaskSpec()
LOSS = LossSpec()
WEIGHTS = WeightSpec.recommended()

Sample = tuple[Tensor, dict[str, Tensor]]


class Scenes(Dataset[Sample]):
    """Drawn streets; put your own set here."""

    def __len__(self) -> int:
        return IMAGES

    def __getitem__(self, index: int) -> Sample:
        scene = street_scene(index, image_size=IMAGE_SIZE, boxes=BOXES)
        image = torch.from_numpy(scene.image).permute(2, 0, 1) / 255
        labels = torch.tensor([LABELS.index(label) for label in scene.labels])
        return image, {"boxes": torch.from_numpy(scene.boxes), "labels": labels}


def token_scorer() -> nn.Module:
    """Logits of the tokens at stride 8; at first zeros."""
    head = nn.Conv2d(32, 1, 1)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)  # type: ignore[arg-type]
    layers: list[nn.Module] = []
    for channels_in, channels in ((3, 16), (16, 32), (32, 32)):
        layers += [nn.Conv2d(channels_in, channels, 3, stride=2, padding=1), nn.ReLU()]
    return nn.Sequential(*layers, head, nn.Flatten(1, 2))


def without_masks(samples: Sequence[Sample]) -> tuple[Tensor, tuple[dict[str, Tensor], ...]]:
    """Images stacked, targets as they are."""
    images, targets = zip(*samples, strict=True)
    return torch.stack(images), targets


def main(
    server: Annotated[str, typer.Option(help="HOST:PORT, or local: for this process.")] = "local:",
    remote_loss: Annotated[bool, typer.Option(help="Loss from the server, no masks.")] = False,
) -> None:
    """Train, and print the mean loss of each epoch."""
    torch.manual_seed(0)
    client = CassClient(server)  # pickles; each worker opens a connection of its own
    batches: DataLoader[Any] = DataLoader(
        Scenes(),
        BATCH,
        shuffle=True,
        generator=torch.Generator().manual_seed(0),
        num_workers=2,
        persistent_workers=True,
        collate_fn=without_masks
        if remote_loss
        else MaskCollate(client, FEATURE_MAP, MASKS, weight_spec=WEIGHTS),
    )
    from_boxes, from_mask = RemoteCassLoss(client, MASKS, LOSS, WEIGHTS), MaskLoss(LOSS)
    network = token_scorer()
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    for epoch in range(EPOCHS):
        losses = []
        for images, targets, *masks_and_weights in batches:
            logits = network(images)
            optimizer.zero_grad()
            if remote_loss:
                loss = from_boxes(logits, [t["boxes"] for t in targets], IMAGE_SIZE, FEATURE_MAP)
            else:
                masks, weights = masks_and_weights
                loss = from_mask(logits, masks, weights=weights)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        print(f"epoch {epoch}: first loss {losses[0]:.6f}, mean {sum(losses) / len(losses):.6f}")


if __name__ == "__main__":
    typer.run(main)
