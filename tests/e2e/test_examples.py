"""The examples and the programs of docs/loaders.md, as they stand, against a real server."""

from __future__ import annotations

import re
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from cass_core import LossSpec, MaskSpec, WeightSpec, compute_loss, generate_mask
from cass_core.synthetic import street_boxes
from tests.e2e.clients.building import CLIENTS
from tests.e2e.pages import ROOT, page, programs
from tests.server.support.observed import scrape
from tests.server.support.processes import free_port
from tests.support.programs import printed
from tests.support.servers import ServerProcess, serving

EXAMPLES = ROOT / "examples"
PAGE = page("docs/loaders.md")
# Those of the stacks are run where these are installed, by tests/stacks/test_page.py.
PROGRAMS = programs(re.sub("## Training stacks.*?(?=\n## )", "", PAGE, flags=re.DOTALL))
SPEC = MaskSpec(patch_size=1)
SIZE, STRIDE_32 = (736, 1280), (23, 40)

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    """One that counts."""
    with serving("--metrics-port", "0") as process:
        yield process


@pytest.fixture
def short_folder() -> Iterator[str]:
    """Ray's sockets lie in it, and a socket's path has at most 107 bytes."""
    with tempfile.TemporaryDirectory() as folder:
        yield folder


def run(*arguments: str, **env: str) -> str:
    """What Python prints, with these arguments, in the folder of the examples."""
    return printed(*arguments, cwd=EXAMPLES, env=env, limit=120)


def answered(server: ServerProcess) -> Counter[str]:
    """Images, and good requests by method, until now; a difference is of what rose."""
    found: Counter[str] = Counter()
    for (name, labels), value in scrape(server).items():
        told = dict(labels)
        if name == "cass_images_total":
            found["images"] += int(value)
        elif name == "cass_requests_total" and told["code"] == "OK":
            found[told["method"]] += int(value)
    return found


def means(images: int, dtype: str, *, mirrored: bool = False) -> list[float]:
    """The mean of each mask of streets with none to six boxes, by turns."""
    boxes = [street_boxes(1, i % 7, image_size=SIZE, seed=i)[0] for i in range(images)]
    if mirrored:
        boxes = [np.array([1280, 0, 1280, 0]) + b[:, [2, 1, 0, 3]] * [-1, 1, -1, 1] for b in boxes]
    masks = generate_mask(boxes, SIZE, STRIDE_32, SPEC, dtype=dtype)
    return [float(mask.mean()) for mask in masks]


@pytest.mark.slow
def test_torch_detection(server: ServerProcess) -> None:
    start = answered(server)
    told = run("torch_detection.py", "--server", server.address)
    between = answered(server)
    # Weights are a feature that each worker's client asks after.
    assert between - start == {"GenerateMask": 24, "images": 192, "GetServerInfo": 2}
    first, means_ = zip(*re.findall(r"first loss ([\d.]+), mean ([\d.]+)", told), strict=True)
    assert len(first) == 4
    assert float(means_[-1]) < 0.9 * float(means_[0])
    # The untrained network's logits are zeros, so the first loss depends on the boxes alone.
    order = DataLoader(
        range(48),  # type: ignore[arg-type]
        8,
        shuffle=True,
        generator=torch.Generator().manual_seed(0),
    )
    boxes = [street_boxes(1, 8, image_size=(96, 160), seed=int(i))[0] for i in next(iter(order))]
    weighted = {"weight_spec": WeightSpec("object"), "return_weights": True}
    masks, weights = generate_mask(boxes, (96, 160), (12, 20), SPEC, **weighted)
    expected = compute_loss(np.zeros_like(masks), masks, LossSpec(), weights=weights).loss
    assert float(first[0]) == pytest.approx(float(expected), abs=1e-6)
    # The server's loss trains the same network.
    assert run("torch_detection.py", "--server", server.address, "--remote-loss") == told
    assert answered(server) - between == {"ComputeLoss": 24, "images": 192, "GetServerInfo": 1}


@pytest.mark.slow
def test_hf_datasets(server: ServerProcess, tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    start = answered(server)
    told = run(
        "hf_datasets.py", "--server", server.address, HF_HOME=str(tmp_path), HF_HUB_OFFLINE="1"
    )
    assert answered(server) - start == {"GenerateMask": 8, "images": 128}
    rows = re.findall(r"^(\w+), image (\d+): uint8, mean ([\d.]+)$", told, re.MULTILINE)
    for name in ("stored", "mirrored"):
        found = {int(image): float(mean) for which, image, mean in rows if which == name}
        assert list(found) == list(range(64))
        expected = means(64, "uint8", mirrored=name == "mirrored")
        assert list(found.values()) == pytest.approx(expected, abs=1e-6)
    assert len(rows) == 128


@pytest.mark.slow
def test_numpy_loader(server: ServerProcess) -> None:
    start = answered(server)
    # A proxy is not asked for what is on this machine.
    proxy = f"http://127.0.0.1:{free_port()}"
    told = run("numpy_loader.py", "--server", server.address, http_proxy=proxy)
    assert answered(server) - start == {"StreamMasks": 8, "images": 128}
    lines = told.splitlines()
    assert len(lines) == 8
    for number, line in enumerate(lines):
        assert line.startswith(f"batch {number}: 16 images, ")
        boxes = street_boxes(16, 15, image_size=SIZE, seed=number)
        maps = [(92, 160), (46, 80), (23, 40)]
        expected = [mask.mean() for mask in generate_mask(boxes, SIZE, maps, SPEC)]
        found = [float(text) for text in re.findall(r"0\.\d+", line)]
        assert found == pytest.approx(expected, abs=1e-6)
    assert run("numpy_loader.py") == told


@pytest.mark.slow
def test_ray_data(server: ServerProcess, short_folder: str) -> None:
    pytest.importorskip("ray")
    start = answered(server)
    told = run(
        "ray_data.py",
        "--server",
        server.address,
        RAY_TMPDIR=short_folder,
        RAY_USAGE_STATS_ENABLED="0",
    )
    assert answered(server) - start == {"GenerateMask": 4, "images": 64}
    rows = re.findall(r"^image (\d+): mean ([\d.]+)$", told, re.MULTILINE)
    assert [int(image) for image, _ in rows] == list(range(64))
    assert [float(mean) for _, mean in rows] == pytest.approx(means(64, "float32"), abs=1e-6)


def test_every_example_is_tested_and_told_of() -> None:
    tested = {"torch_detection.py", "hf_datasets.py", "numpy_loader.py", "ray_data.py"}
    elsewhere = {"hf_rtdetr.py"}  # by tests/stacks/test_example.py
    assert {path.name for path in EXAMPLES.glob("*.py")} == tested | elsewhere | {"demo.py"}
    for name in tested | elsewhere:
        command = f"    python examples/{name} --server localhost:50051"
        assert command in (EXAMPLES / name).read_text(encoding="utf-8")
        assert command in PAGE


def test_every_client_is_told_of() -> None:
    told = page("docs/clients.md")
    for program in CLIENTS.values():
        source = f"examples/clients/{program.folder}/{program.source}"
        assert f"](../{source})" in told
        steps = (*filter(None, [program.build]), program.command)
        how = f"{' && '.join(steps)} localhost:50051 [SECONDS [EXPECTED]]\n"
        assert how in (ROOT / source).read_text(encoding="utf-8")


@pytest.mark.slow
def test_page_collates(server: ServerProcess, tmp_path: Path) -> None:
    program = PROGRAMS[0].replace("localhost:50051", server.address)
    assert server.address in program
    kept = tmp_path / "masks.npy"
    start = answered(server)
    # As a process, whose workers are forked from no more than it has started.
    told = run("-c", f"{program}\nimport numpy; numpy.save({str(kept)!r}, masks[0])")
    # Each worker asks first whether the server knows weights.
    assert answered(server) - start == {"GenerateMask": 2, "GetServerInfo": 2, "images": 8}
    sizes = ", ".join(f"torch.Size([4, {side}, {side}])" for side in (80, 40, 20))
    # Of 80 rows, the centres of 48 lie in the picture.
    line = f"torch.Size([4, 3, 640, 640]) [{sizes}] torch.uint8 tensor(0.6000)\n"
    assert told == line * 2
    # Of the padded image's 640 rows, not of the sample's 380.
    boxes = [np.array([[100, 300, 120, 360]], np.float32)] * 4
    expected = generate_mask(boxes, (640, 640), (80, 80), SPEC, dtype="uint8")
    np.testing.assert_array_equal(np.load(kept), expected)


def test_page_weighs(capsys: pytest.CaptureFixture[str]) -> None:
    """Two images: a third is padding, a quarter of the rest is a crowd, at both strides."""
    exec(PROGRAMS[1], {})
    assert capsys.readouterr().out == f"{[2 * (8 * 4 + 4 * 4), 2 * (4 * 2 + 2 * 2)]}\n"


def test_page_adds_masks(server: ServerProcess, capsys: pytest.CaptureFixture[str]) -> None:
    program = PROGRAMS[2].replace("localhost:50051", server.address)
    assert server.address in program
    start = answered(server)
    names: dict[str, Any] = {}
    exec(program, names)
    assert answered(server) - start == {"GenerateMask": 3, "images": 6}
    assert capsys.readouterr().out == "[(2, 8, 12), (2, 4, 6)]\n" * 3
    boxes = [np.array([[43.2, 25.6, 52.8, 38.4]], np.float32)] * 2
    expected = generate_mask(boxes, (64, 96), (8, 12), SPEC)
    np.testing.assert_allclose(names["masks"][0], expected, atol=1e-5)


@pytest.mark.slow
def test_page_takes_losses(server: ServerProcess, capsys: pytest.CaptureFixture[str]) -> None:
    program = PROGRAMS[3].replace("localhost:50051", server.address)
    assert server.address in program
    start = answered(server)
    names: dict[str, Any] = {}
    exec(program, names)
    assert answered(server) - start == {"ComputeLoss": 4, "images": 8}
    boxes = [box if box is None else box.numpy() for box in names["boxes"]]
    masks = generate_mask(boxes, SIZE, STRIDE_32, SPEC)
    logits = names["logits"].detach().float().numpy()
    expected = compute_loss(logits, masks, LossSpec(reduction="per_object"), num_boxes=1).loss
    assert float(capsys.readouterr().out) == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.slow
def test_page_keeps_memory() -> None:
    """In a process of its own: it is for good."""
    printed("-c", PROGRAMS[4])
    assert len(PROGRAMS) == 5
