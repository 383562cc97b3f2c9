"""What `make gpu-check` measures: kernels beside plain copies, and what a call costs the host."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.common.measure import interleaved
from benchmarks.core.audited import audited_masks
from benchmarks.core.gpu_host import LOSS_MICROSECONDS, MASKS_MICROSECONDS
from benchmarks.core.roofline import LOSS, LOSS_FROM_BOXES, Card, share
from cass_core import BoxBatch, CassLoss, LossSpec, MaskSpec, generate_mask
from cass_core.ops.backend import DeviceBoxes, to_device
from cass_core.ops.spec_args import loss_options, mask_options
from cass_core.synthetic import street_boxes
from tests.gpu.setup import capture

ROUNDS = 51
# Calls in one captured graph, so that its own start hardly counts.
REPEATS = 20
# Logits take turns, so that nobody finds them in the cache.
SETS = 4
SPEC = MaskSpec()
# Of the speed of a copy that moves as many bytes, or of what the card allows if that is less.
_LEAST = 0.7

Call = Callable[[int], object]
"""Work for the device; it receives the number of the turn."""


@dataclass(frozen=True, slots=True)
class Figure:
    """Median seconds of a call and of what was measured in turns with it; at most one bound."""

    name: str
    seconds: float
    beside: str
    beside_seconds: float
    least_ratio: float | None = None
    most_seconds: float | None = None

    @property
    def ratio(self) -> float:
        """How many times as fast as what is beside it."""
        return self.beside_seconds / self.seconds

    @property
    def kept(self) -> bool | None:
        """Whether it keeps its bound; None where it has none."""
        if self.least_ratio is not None:
            return self.ratio >= self.least_ratio
        return None if self.most_seconds is None else self.seconds <= self.most_seconds

    def record(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self) | {"ratio": self.ratio, "kept": self.kept}

    def __str__(self) -> str:
        sign = {True: "✓", False: "✗", None: " "}[self.kept]
        bound = "" if self.least_ratio is None else f", bound ≥ {self.least_ratio:.2f}"
        if self.most_seconds is not None:
            bound = f", bound ≤ {self.most_seconds * 1e6:.0f} µs"
        return (
            f"{sign} {self.name:58}{self.seconds * 1e6:9.1f} µs   "
            f"{self.beside} {self.beside_seconds * 1e6:.1f} µs, ratio {self.ratio:.2f}{bound}"
        )


def figures() -> list[Figure]:
    """All measurements, on the current CUDA device; they take about a minute."""
    with torch.no_grad():
        on_device = [*_masks(), *_losses()]
    return [*on_device, *_latencies()]


def _masks() -> list[Figure]:
    cases = (
        ((64, 30, (736, 1280), (92, 160)), torch.float32, 0.5),
        ((64, 30, (736, 1280), (92, 160)), torch.float16, None),
        ((64, 30, (736, 1280), (92, 160)), torch.uint8, None),
        ((16, 1000, (3072, 3072), (384, 384)), torch.float32, None),
    )
    found = []
    for (images, boxes, image_size, cells), dtype, bound in cases:
        placed = _placed(images, boxes, image_size)
        output = torch.empty(images, *cells, dtype=dtype, device="cuda")

        def masks(
            turn: int,
            args: tuple[Any, ...] = (*placed, list(cells), *mask_options(SPEC), dtype, False),
        ) -> object:
            return torch.ops.cass.masks(*args)

        def fill(turn: int, output: Tensor = output) -> object:
            return output.fill_(1)

        seconds = _on_device({"masks": masks, "fill": fill})
        name = f"masks, {images} × {cells[0]}×{cells[1]}, {boxes} boxes, {_name(dtype)}"
        found.append(Figure(name, seconds["masks"], "fill", seconds["fill"], bound))
    return found


def _losses() -> list[Figure]:
    images, (side, _) = LOSS.images, LOSS.cells
    count = images * side * side
    logits = [torch.randn(images, side, side, device="cuda") for _ in range(SETS)]
    placed = _placed(images, LOSS.boxes, LOSS.image_size)
    mask = mask_options(SPEC)
    flat, _ = torch.ops.cass.masks(*placed, [side, side], *mask, torch.float32, False)
    targets = [flat.view(images, side, side).clone() for _ in range(SETS)]
    options = (*loss_options(LossSpec()), float(count), torch.float32)
    one = torch.ones((), device="cuda")

    def from_mask(turn: int) -> None:
        torch.ops.cass.loss(logits[turn % SETS], targets[turn % SETS], *options)

    def from_boxes(turn: int) -> None:
        _, _, grad = torch.ops.cass.boxes_loss(
            logits[turn % SETS], *placed, [side, side], *mask, *options
        )
        torch.ops.cass.scale_(grad, one)  # as backward does

    def copying(floats: int) -> Call:
        # As many bytes are read as written.
        sources = [torch.randn(floats // 2, device="cuda") for _ in range(SETS)]
        destination = torch.empty_like(sources[0])
        return lambda turn: destination.copy_(sources[turn % SETS])

    seconds = _on_device(
        {
            "from a mask": from_mask,
            "copy for a mask": copying(3 * count),  # logits, target, gradient
            "from boxes": from_boxes,
            "copy for boxes": copying(2 * count),  # logits, gradient
        }
    )
    shape, copies = f"{images} × {side}×{side}, float32", "copy of as many bytes"
    card = _card()
    return [
        Figure(
            f"loss and gradient from {of}, {shape}",
            seconds[call],
            copies,
            seconds[copy],
            _LEAST if card is None else _LEAST * share(card, case),
        )
        for of, case, call, copy in (
            ("a mask", LOSS, "from a mask", "copy for a mask"),
            (f"{LOSS.boxes} boxes", LOSS_FROM_BOXES, "from boxes", "copy for boxes"),
        )
    ]


def _latencies() -> list[Figure]:
    """What a call takes on the host, which does not wait for the device."""
    images, cells, image_size = 16, (23, 40), (736, 1280)
    arrays = street_boxes(images, 15, image_size=image_size)
    batch = BoxBatch.from_list(arrays).to("cuda")
    tensors = [torch.from_numpy(array).cuda() for array in arrays]
    logits = torch.randn(images, *cells, device="cuda", requires_grad=True)
    loss_of = CassLoss(SPEC)

    def step() -> None:
        logits.grad = None
        loss_of(logits, batch, image_size, cells).backward()

    def audited() -> Tensor:
        with torch.device("cuda"):
            return audited_masks(tensors, image_size, cells, patch_size=1)

    calls: dict[str, tuple[Callable[[], object], int]] = {
        "masks": (lambda: generate_mask(batch, image_size, cells, SPEC), REPEATS),
        "step": (step, REPEATS),
        "audited": (audited, 1),
    }
    for function, _ in calls.values():
        function()  # compiles
    seconds = interleaved(calls, ROUNDS, torch.cuda.synchronize)
    shape = f"{images} × {cells[0]}×{cells[1]}, 15 boxes"
    beside = "audited masks"
    return [
        Figure(f"host, {what}, {shape}", seconds[call], beside, seconds["audited"], None, bound)
        for call, what, bound in (
            ("masks", "generate_mask", 1e-6 * MASKS_MICROSECONDS),
            ("step", "CassLoss forward and backward", 1e-6 * LOSS_MICROSECONDS),
        )
    ]


def _card() -> Card | None:
    """The current device; None where the machine code is of none like it, or torch says too little.

    torch 2.8 and 2.9 know no clocks.
    """
    found = torch.cuda.get_device_properties(torch.cuda.current_device())
    if not hasattr(found, "memory_clock_rate") or found.major < 8:
        return None
    return Card(
        found.name,
        10 * found.major + found.minor,
        found.multi_processor_count,
        1e3 * found.clock_rate,
        # Of memory that moves two bits a wire and cycle.
        2 * found.memory_bus_width / 8 * 1e3 * found.memory_clock_rate,
    )


def _placed(images: int, boxes: int, image_size: tuple[int, int]) -> DeviceBoxes:
    batch = BoxBatch.from_list(street_boxes(images, boxes, image_size=image_size)).to("cuda")
    return to_device(batch, np.array([image_size], np.float64), torch.device("cuda"))


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _on_device(calls: Mapping[str, Call]) -> dict[str, float]:
    """Median seconds of one call on the device alone, captured graphs of them taking turns."""
    graphs = {name: capture(partial(_repeated, call))[0] for name, call in calls.items()}
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(ROUNDS):
        for name, graph in graphs.items():
            graph.replay()  # the caches are another call's
            start.record()
            graph.replay()
            end.record()
            end.synchronize()
            times[name].append(start.elapsed_time(end) / 1e3 / REPEATS)
    return {name: float(np.median(values)) for name, values in times.items()}


def _repeated(call: Call) -> None:
    for turn in range(REPEATS):
        call(turn)  # what it returns is given back at once
