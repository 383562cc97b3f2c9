"""What `make gpu-check` checks of a training loop: gradients, graphs, tracing, no waiting."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor

from cass_core import BoxBatch, CassLoss, LossSpec
from cass_core.ops.backend import to_device
from cass_core.ops.spec_args import loss_options, mask_options
from cass_core.specs import Reduction
from cass_core.synthetic import street_boxes
from tests.gpu.setup import ALIGNED, CELLS, FINE, HALVES, SIZE, Setup, capture, close, same


def outer_gradients(setup: Setup) -> None:
    """Backward twice, with an outer gradient of 3, and accumulated over two steps."""
    loss_of, boxes = _loss_of(setup)
    logits, others = setup.logits(2, *CELLS), setup.logits(2, *CELLS, seed=1)

    def value_of(logits: Tensor) -> Any:
        return loss_of(logits, boxes, SIZE, CELLS)

    (plain,) = torch.autograd.grad(value_of(logits), logits)
    retained = value_of(logits)
    summed = torch.zeros_like(plain)
    for outer in (3.0, 1.0, 1.0):
        retained.backward(torch.full_like(retained, outer), retain_graph=True)
        summed += plain * outer
        assert logits.grad is not None
        same(logits.grad, summed, f"one graph, outer gradients up to one of {outer}")
    logits.grad = None
    (3 * value_of(logits)).backward()
    assert logits.grad is not None
    same(logits.grad, 3 * plain, "three times the loss")
    weight = torch.zeros_like(logits).requires_grad_()
    for of_step in (logits, others):
        value_of(of_step.detach() + weight).backward()
    (of_others,) = torch.autograd.grad(value_of(others), others)
    assert weight.grad is not None
    same(weight.grad, plain + of_others, "sum over two steps")


def operators(setup: Setup) -> None:
    """torch's own checks of custom operators: schema, fake kernels, gradient, tracing."""
    boxes = to_device(setup.boxes(street_boxes(2, 3)), np.array([SIZE], np.float64), setup.device)
    sized = boxes._replace(sizes=setup.tensor([SIZE, (700, 1200)]).double())
    cells = list(CELLS)
    mask, ops = mask_options(FINE), torch.ops.cass
    for given, dtype, owner in ((boxes, torch.float32, True), (sized, torch.uint8, False)):
        args = (*given, [*cells, 12, 20], *mask, dtype, owner)
        torch.library.opcheck(ops.masks.default, args)
    reductions: Sequence[Reduction] = ("mean", "none")
    for reduction in setup.some(reductions, 1):
        loss = (*loss_options(LossSpec(reduction=reduction)), 7.0, torch.float32)
        logits = setup.logits(2, *CELLS)
        torch.library.opcheck(ops.loss.default, (logits, logits.detach().sigmoid(), *loss))
        for given in (boxes, sized):
            torch.library.opcheck(ops.boxes_loss.default, (logits, *given, cells, *mask, *loss))
    torch.library.opcheck(ops.scale_.default, (setup.logits(5).detach(), setup.tensor(3.0)))


def no_waiting(setup: Setup) -> None:
    """A step never makes the host wait for the device, wherever its boxes come from."""
    loss_of, placed = _loss_of(setup)
    arrays = street_boxes(2, 8, image_size=SIZE)
    logits = setup.logits(2, *CELLS)
    one_size, sizes_of_each = setup.tensor(SIZE), setup.tensor([SIZE, (700, 1200)])

    def step() -> Any:
        loss_of(logits, placed, SIZE, CELLS).backward()
        for sizes in (one_size, sizes_of_each, list(sizes_of_each)):
            loss_of(logits, placed, sizes, CELLS).backward()
        value = loss_of(logits, arrays, [SIZE, (700, 1200)], CELLS)
        value.backward()
        return value

    step()  # compiles
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        value = step()
        try:
            value.item()
        except RuntimeError:
            return
        raise AssertionError("torch does not notice waiting, so nothing is known")
    finally:
        torch.cuda.set_sync_debug_mode("default")


def compiled(setup: Setup) -> None:
    """torch.compile, without a graph break, gives what eager gives."""
    backend = "inductor" if setup.native else "aot_eager"  # which needs no C++ compiler
    logits = setup.logits(2, *CELLS)
    reductions: Sequence[Reduction] = get_args(Reduction)
    for reduction in setup.some(reductions, 1):
        loss_of, boxes = _loss_of(setup, reduction)
        runs = []
        for function in (loss_of, torch.compile(loss_of, fullgraph=True, backend=backend)):
            value = function(logits, boxes, SIZE, CELLS)
            runs.append((value, *torch.autograd.grad((2 * value).sum(), logits)))
        (value, grad), (eager_value, eager_grad) = runs[1], runs[0]
        same(value, eager_value, reduction)
        close(grad, eager_grad, 1e-6, 0, f"{reduction}, gradient")


def autocast(setup: Setup) -> None:
    """Half-precision logits of a layer under autocast: a float32 loss, gradients as of float32."""
    loss_of, boxes = _loss_of(setup)
    features = setup.logits(2 * CELLS[0] * CELLS[1], 16).detach()
    for dtype in HALVES.values():
        layer = torch.nn.Linear(16, 1, device=setup.device)
        with torch.autocast(setup.device.type, dtype):
            logits = layer(features).reshape(2, *CELLS)
            value = loss_of(logits, boxes, SIZE, CELLS)
        assert (logits.dtype, value.dtype) == (dtype, torch.float32), dtype
        (grad,) = torch.autograd.grad(value, logits, retain_graph=True)
        wide = logits.detach().float().requires_grad_()
        expected = loss_of(wide, boxes, SIZE, CELLS)
        (expected_grad,) = torch.autograd.grad(expected, wide)
        same(value, expected, f"{dtype}")
        same(grad, expected_grad.to(dtype), f"{dtype}, gradient")
        value.backward()
        assert layer.weight.grad is not None
        assert bool(layer.weight.grad.isfinite().all()), f"{dtype}, gradient of the weights"


def cuda_graph(setup: Setup) -> None:
    """A captured step, replayed with other logits and boxes, gives what an eager one gives."""
    loss_of, boxes = _loss_of(setup)
    logits = setup.logits(2, *CELLS)

    def step() -> tuple[Tensor, Tensor]:
        value = loss_of(logits, boxes, SIZE, CELLS)
        return value, torch.autograd.grad(value, logits)[0]

    graph, (value, grad) = capture(step)
    assert isinstance(boxes.xyxy, Tensor)
    before = None
    for seed in (1, 2, 3):
        with torch.no_grad():
            logits.copy_(setup.logits(2, *CELLS, seed=seed))
            moved = np.concatenate(street_boxes(2, 8, image_size=SIZE, seed=seed))
            boxes.xyxy.copy_(setup.tensor(moved))
        graph.replay()
        expected_value, expected_grad = step()
        same(value, expected_value, f"replay {seed}")
        same(grad, expected_grad, f"replay {seed}, gradient")
        assert value.item() != before, "the replays did not see the new values"
        before = value.item()


def _loss_of(setup: Setup, reduction: Reduction = "per_object") -> tuple[CassLoss, BoxBatch]:
    """A loss, and boxes of two images for it."""
    boxes = setup.boxes(street_boxes(2, 8, image_size=SIZE))
    return CassLoss(FINE, LossSpec(reduction=reduction)), boxes


def launch_everything(setup: Setup) -> None:
    """Small launches of every kernel, at odd sizes: what the sanitizer watches."""
    boxes, sizes = street_boxes(3, 40, image_size=SIZE), [SIZE, (700, 1200), (1, 1)]
    for maps in ([CELLS], [ALIGNED], [(1, 1)], [(33, 65), (7, 129), (32, 32)]):
        for name in ("float32", "uint8", *HALVES):
            setup.masks(boxes, sizes, maps, FINE, name)
        setup.owned(boxes, SIZE, maps[0], FINE)
        for dtype in (torch.float32, torch.float16, torch.float64):
            logits = setup.logits(3, *maps[0]).detach().to(dtype).requires_grad_()
            setup.loss(logits, logits.detach().sigmoid(), LossSpec(reduction="none"))
            value = CassLoss(FINE)(logits, setup.boxes(boxes), sizes, maps[0])
            (3 * value).backward()
