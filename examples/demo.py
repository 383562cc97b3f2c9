"""`make demo`: the main job once, end to end, against a real server.

Boxes of a batch of images go out, soft masks at three strides come back, a loss with its gradient
is computed remotely, and every answer is compared with the one made in this process.
"""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Annotated, Any

import numpy as np
import numpy.typing as npt
import typer
from rich.console import Console
from rich.table import Table

from cass_cli.coco import read_coco
from cass_cli.figures import load_picture, save
from cass_client import BoxBatch, CassClient, LossSpec, MaskSpec
from cass_core.plotting.figures import plot_comparison
from cass_core.synthetic import street_boxes, street_scene

IMAGES = 16
STRIDES = (8, 16, 32)
SPEC = MaskSpec()
START_SECONDS = 120.0


@dataclass(frozen=True)
class Batch:
    """Boxes of some images, and the picture that the figure shows."""

    name: str
    boxes: BoxBatch
    sizes: npt.NDArray[np.int64]
    shown: int
    picture: Any


def drawn_batch() -> Batch:
    """Street scenes that the project draws itself."""
    scene = street_scene(seed=7)
    height, width = scene.image.shape[:2]
    others = street_boxes(IMAGES - 1, len(scene.boxes), image_size=(height, width), seed=1)
    sizes = np.tile(np.array([[height, width]]), (IMAGES, 1))
    return Batch(
        "drawn street scenes", BoxBatch.from_list([scene.boxes, *others]), sizes, 0, scene.image
    )


def coco_batch(path: Path, images: Path | None) -> Batch:
    """The images of a COCO file with the most boxes."""
    file = read_coco(path)
    counts = np.diff(file.offsets)
    chosen = np.argsort(-counts, kind="stable")[:IMAGES]
    boxes = BoxBatch.from_list([file.xyxy[file.offsets[i] : file.offsets[i + 1]] for i in chosen])
    first = int(chosen[0])
    picture = load_picture(images, file.file_names[first], file.size(first), file.image_ids[first])
    return Batch(path.name, boxes, file.sizes[chosen], 0, picture)


def around_smallest(
    xyxy: npt.NDArray[np.float32], size: tuple[int, int]
) -> npt.NDArray[np.float64] | None:
    """A sixth of the image's width and height around the smallest box, xyxy in pixels."""
    if not len(xyxy):
        return None
    image = np.array(size[::-1], np.float64)
    smallest = xyxy[np.argmin(np.prod(xyxy[:, 2:] - xyxy[:, :2], axis=1))]
    corner = np.clip((smallest[:2] + smallest[2:]) / 2 - image / 12, 0, image * 5 / 6)
    return np.concatenate([corner, corner + image / 6])


@contextlib.contextmanager
def running_server(console: Console) -> Iterator[str]:
    """A real `cass-server` on a free port; at the end it drains and must exit with 0."""
    command = [sys.executable, "-m", "cass_server", "serve", "--port", "0"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        start = _serving_line(process.stderr)
        console.print(f"server: {start['address']} on {start['device']}")
        yield start["address"]
        process.send_signal(signal.SIGTERM)
        code = process.wait(timeout=30)
        console.print(f"server: drained, exit code {code}")
        if code:
            raise SystemExit("the server did not exit cleanly")
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def _serving_line(log: IO[str]) -> dict[str, Any]:
    """The log line that tells the address."""
    lines = []
    for line in log:
        lines.append(line)
        with contextlib.suppress(json.JSONDecodeError):
            record: dict[str, Any] = json.loads(line)
            if record.get("event") == "serving":
                return record
    raise SystemExit("the server did not start:\n" + "".join(lines))


def timed(call: Callable[[], Any]) -> tuple[Any, float]:
    """The call's result, and the median milliseconds of five more calls."""
    result, times = call(), []
    for _ in range(5):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return result, float(np.median(times)) * 1e3


def difference(remote: npt.NDArray[Any], local: npt.NDArray[Any]) -> str:
    """How two answers compare; they may differ in rounding where a GPU made one."""
    if remote.tobytes() == local.tobytes():
        return "identical"
    worst = float(np.abs(remote.astype(np.float64) - local).max())
    if worst > 1e-4:
        raise SystemExit(f"the remote answer differs from the local one by {worst}")
    return f"within {worst:.1e}"


def main(
    coco: Annotated[Path | None, typer.Option(help="COCO annotations instead of drawings.")] = None,
    images: Annotated[Path | None, typer.Option(help="Folder with their pictures.")] = None,
    out: Annotated[Path, typer.Option(help="Folder for the figure.")] = Path("out"),
) -> None:
    """Run the demo."""
    console = Console(width=110, highlight=False, markup=False)  # it prints names of files
    batch = drawn_batch() if coco is None else coco_batch(coco, images)
    height, width = (int(side) for side in batch.sizes[batch.shown])
    maps = {stride: (-(-height // stride), -(-width // stride)) for stride in STRIDES}
    console.print(f"input: {batch.name}, {len(batch.sizes)} images, {batch.boxes.num_boxes} boxes")
    table = Table("call", "answer", "bytes", "remote ms", "local ms", "remote = local?")
    with running_server(console) as address, CassClient(address) as server:
        local = CassClient("local:")

        def masks(client: CassClient, spec: MaskSpec, stride: int) -> npt.NDArray[np.float32]:
            made: npt.NDArray[np.float32] = client.generate_mask(
                batch.boxes, batch.sizes, maps[stride], spec
            )
            return made

        for stride in STRIDES:
            there, there_ms = timed(partial(masks, server, SPEC, stride))
            here, here_ms = timed(partial(masks, local, SPEC, stride))
            table.add_row(
                f"masks, stride {stride}",
                str(there.shape),
                f"{there.nbytes:,}",
                f"{there_ms:.2f}",
                f"{here_ms:.2f}",
                difference(there, here),
            )

        rng = np.random.default_rng(0)
        logits = rng.normal(-2, 2, (len(batch.sizes), *maps[8])).astype(np.float32)

        def loss(client: CassClient) -> Any:
            return client.compute_loss(
                logits,
                boxes=batch.boxes,
                image_size=batch.sizes,
                feature_map=maps[8],
                mask_spec=SPEC,
                loss_spec=LossSpec(),
                return_grad=True,
            )

        there, there_ms = timed(partial(loss, server))
        here, here_ms = timed(partial(loss, local))
        table.add_row(
            "loss + gradient, stride 8",
            f"loss {there.loss:.6f}",
            f"{there.grad.nbytes:,}",
            f"{there_ms:.2f}",
            f"{here_ms:.2f}",
            difference(np.append(there.grad, there.loss), np.append(here.grad, here.loss)),
        )
        baseline = masks(server, MaskSpec.baseline(), 8)[batch.shown]
        improved = masks(server, SPEC, 8)[batch.shown]
    offsets = batch.boxes.offsets
    xyxy = np.asarray(batch.boxes.xyxy[offsets[batch.shown] : offsets[batch.shown + 1]])
    figure = plot_comparison(
        batch.picture,
        xyxy,
        baseline,
        improved,
        image_size=(height, width),
        zoom=around_smallest(xyxy, (height, width)),
    )
    out.mkdir(parents=True, exist_ok=True)
    path = out / "demo.png"
    save(figure, path)
    console.print(table)
    console.print(f"figure: {path}")


if __name__ == "__main__":
    typer.run(main)
