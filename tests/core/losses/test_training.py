"""The losses in training loops: autocast with a scaler, checkpoints, accumulation, processes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from cass_client import CassClient
from cass_client.torch import RemoteCassLoss
from cass_core import BoxBatch, CassLoss, LossSpec, MaskLoss, generate_mask
from tests.core.support.ddp_program import BATCH, MAPS, SIZE, boxes_of, gradient, network
from tests.support.compare import same

pytestmark = pytest.mark.timeout(110)

SPEC = LossSpec(kind="bce", reduction="per_object")
BOXES = boxes_of(range(BATCH))
IMAGES = torch.randn(BATCH, 3, *SIZE, generator=torch.Generator().manual_seed(2))


def from_boxes(rows: Tensor, images: slice = slice(None)) -> Any:
    return CassLoss(loss_spec=SPEC)(rows, BOXES[images], SIZE, MAPS, num_boxes=10)


def from_masks(rows: Tensor, images: slice = slice(None)) -> Any:
    masks = generate_mask(BOXES[images], SIZE, MAPS)
    return MaskLoss(SPEC)(rows, masks, num_boxes=10)


def from_a_server(rows: Tensor, images: slice = slice(None)) -> Any:
    loss = RemoteCassLoss(CassClient("local:"), loss_spec=SPEC)
    return loss(rows, BOXES[images], SIZE, MAPS, num_boxes=10)


every_loss = pytest.mark.parametrize("loss", [from_boxes, from_masks, from_a_server])


def plain(loss: Any) -> Tensor:
    model = network()
    loss(model(IMAGES)).backward()
    return gradient(model)


@every_loss
def test_accumulated_gradients(loss: Any) -> None:
    """Of two halves with one normaliser, equal to those of the whole batch."""
    model = network()
    for images in (slice(0, 2), slice(2, None)):
        loss(model(IMAGES[images]), images).backward()
    torch.testing.assert_close(gradient(model), plain(loss))


@every_loss
def test_autocast_with_a_scaler(loss: Any) -> None:
    """float16 logits whose gradients would vanish without it."""
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**14)
    with torch.autocast("cpu", torch.float16):
        rows = model(IMAGES)
        assert rows.dtype == torch.float16
        value = loss(rows)
    assert value.dtype == torch.float32
    scaler.scale(value).backward()
    scaler.unscale_(optimizer)
    torch.testing.assert_close(gradient(model), plain(loss), rtol=0.02, atol=1e-3)
    scaler.step(optimizer)
    scaler.update()
    assert scaler.get_scale() == 2.0**14  # no gradient overflowed


@every_loss
def test_activation_checkpoints(loss: Any) -> None:
    model = network()

    def forward(images: Tensor) -> Any:
        return loss(model(images))

    checkpoint(forward, IMAGES, use_reentrant=False).backward()
    same(gradient(model), plain(loss))


class Training(nn.Module):
    """A model with its loss, as it is compiled whole."""

    def __init__(self) -> None:
        super().__init__()
        self.model, self.loss = network(), CassLoss(loss_spec=SPEC)

    def forward(self, images: Tensor, boxes: BoxBatch) -> Any:
        return self.loss(self.model(images), boxes, SIZE, MAPS)


def test_compiled_in_one_graph() -> None:
    training = Training()
    compiled = torch.compile(training, fullgraph=True, backend="aot_eager")
    compiled(IMAGES, BoxBatch.from_list(BOXES)).backward()
    model = network()
    CassLoss(loss_spec=SPEC)(model(IMAGES), BOXES, SIZE, MAPS).backward()
    torch.testing.assert_close(gradient(training.model), gradient(model))


@pytest.mark.slow
def test_two_processes_equal_one(tmp_path: Path) -> None:
    """DDP over gloo; the number of boxes is the mean over the processes."""
    program = Path(__file__).parents[1] / "support" / "ddp_program.py"
    started = [
        subprocess.Popen(
            [sys.executable, str(program), str(rank), str(tmp_path)],
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        printed = [process.communicate(timeout=100)[0] for process in started]
    finally:
        for process in started:
            process.kill()
            process.wait()
    assert [process.returncode for process in started] == [0, 0]
    first, second = (torch.tensor(json.loads(text)) for text in printed)
    same(first, second)
    model = network()
    CassLoss(loss_spec=SPEC)(model(IMAGES), BOXES, SIZE, MAPS).backward()
    torch.testing.assert_close(first, gradient(model), rtol=1e-4, atol=1e-7)
