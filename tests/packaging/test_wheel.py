"""What is published: the same bytes each time, all that is needed, and floors that hold."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tarfile
import urllib.request
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cass_core import __version__
from tests.support.programs import LIMIT
from tests.support.servers import ServerProcess, server_process

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

ROOT = Path(__file__).resolve().parents[2]
TOOLS = ROOT / ".venv-dist" / "bin"

ASK = """
import asyncio
import sys

import numpy as np

import cass_client
from cass_client import AsyncCassClient, CassClient, MaskRequest

boxes, size, grid = [np.array([[0, 0, 32, 32]], np.float32)], (64, 64), (8, 8)
with CassClient(sys.argv[1]) as client:
    mask = client.generate_mask(boxes, size, grid)
    loss = client.compute_loss(np.zeros((1, 8, 8), np.float32), mask)
    streamed = list(client.stream_masks([MaskRequest(boxes, size, grid)]))


async def ask():
    async with AsyncCassClient(sys.argv[1]) as client:
        return await client.generate_mask(boxes, size, grid)


assert all((other == mask).all() for other in (*streamed, asyncio.run(ask())))
print(cass_client.__version__, mask[0, 0, 0], mask.shape, loss.loss > 0)
"""
ANSWER = f"{__version__} 1.0 (1, 8, 8) True\n"

Environment = Callable[..., Path]


def tool(*arguments: object, **options: Any) -> None:
    """Run one of the packaging tools."""
    name, *rest = map(str, arguments)
    if not (TOOLS / name).exists():
        pytest.skip("`make dist` brings the tools")
    done = subprocess.run(
        [TOOLS / name, *rest], capture_output=True, text=True, timeout=300, check=False, **options
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]


def built(source: Path, folder: Path, *arguments: str) -> list[Path]:
    """The distributions that a source tree makes."""
    tool("python", "-m", "build", *arguments, "--outdir", folder, source)
    return sorted(folder.iterdir())


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What git knows of the checkout, in a folder of its own."""
    folder = tmp_path_factory.mktemp("tree")
    names = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    ).stdout
    for name in filter(None, names.split("\0")):
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, target)
    return folder


@pytest.fixture(scope="module")
def distributions(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The wheel and the sdist."""
    wheel, sdist = built(tree, tmp_path_factory.mktemp("dist"))
    return wheel, sdist


def test_the_same_bytes_from_the_sdist_and_again(
    distributions: tuple[Path, Path], tree: Path, tmp_path: Path
) -> None:
    wheel, sdist = distributions
    again_wheel, again_sdist = built(tree, tmp_path / "again")
    assert again_wheel.read_bytes() == wheel.read_bytes()
    assert again_sdist.read_bytes() == sdist.read_bytes()
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    (unpacked,) = tmp_path.glob("cass-*")
    (of_sdist,) = built(unpacked, tmp_path / "of sdist", "--wheel")
    assert of_sdist.read_bytes() == wheel.read_bytes()


def test_what_the_wheel_holds(distributions: tuple[Path, Path]) -> None:
    wheel, _ = distributions
    packages = ("cass", "cass_cli", "cass_client", "cass_core", "cass_lab", "cass_server")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        entries = archive.read(next(n for n in names if n.endswith("entry_points.txt"))).decode()
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == set(packages)
    assert {f"{package}/py.typed" for package in packages} <= set(names)
    assert {"cass/v1/cass.proto", "cass/v1/cass_pb2.pyi"} <= set(names)
    assert {f"cass_lab/sheet/sheet.{kind}" for kind in ("css", "html", "js")} <= set(names)
    page = ROOT / "cli/cass_cli/playground/page"
    files = [path for path in page.rglob("*") if path.is_file()]
    assert {path.relative_to(ROOT / "cli").as_posix() for path in files} <= set(names)
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert "cass = cass_cli.main:main" in entries
    assert not [name for name in names if "test" in name]


@pytest.fixture(scope="module")
def environment(
    distributions: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory
) -> Environment:
    """Makes an environment with the wheel; returns its folder of programs."""

    def make(resolution: str, *extras: str, python: str = sys.executable) -> Path:
        folder = tmp_path_factory.mktemp(resolution)
        lock, programs = folder / "lock.txt", folder / "venv" / "bin"
        options = [option for extra in extras for option in ("--extra", extra)]
        tool(
            *("uv", "pip", "compile", "-q", "--python", python, "--resolution", resolution),
            *(*options, "-o", lock, ROOT / "pyproject.toml"),
        )
        tool("uv", "venv", "-q", "--python", python, folder / "venv")
        install = ("uv", "pip", "install", "-q", "--python", programs / "python")
        tool(*install, "-r", lock)
        tool(*install, "--no-deps", distributions[0])
        return programs

    return make


def asked(programs: Path, server: ServerProcess, folder: Path) -> str:
    """What the client of an environment gets from a server, without the checkout in reach."""
    return subprocess.run(
        [programs / "python", "-c", ASK, server.address],
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=True,
        cwd=folder,
    ).stdout


def newest_python() -> str:
    """The newest Python here beside the one that runs, if any."""
    for version in ("3.14", "3.13", "3.12"):
        found = shutil.which(f"python{version}")
        if (
            found
            and subprocess.run([found, "-V"], capture_output=True, check=False).returncode == 0
        ):
            return found
    return sys.executable


def test_the_light_client_with_the_lowest_versions(
    environment: Environment, server: ServerProcess, tmp_path: Path
) -> None:
    assert asked(environment("lowest-direct"), server, tmp_path) == ANSWER


def test_the_light_client_with_the_newest_versions(
    environment: Environment, server: ServerProcess, tmp_path: Path
) -> None:
    programs = environment("highest", python=newest_python())
    assert asked(programs, server, tmp_path) == ANSWER


def test_masks_and_pictures_with_the_lowest_versions(
    environment: Environment, tmp_path: Path
) -> None:
    """In the process, without a server: `cass[plot]` brings the core."""
    programs = environment("lowest-direct", "plot")
    image = {"id": 1, "file_name": "1.png", "width": 64, "height": 64}
    box = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [8, 8, 24, 24], "area": 576}
    content = {"images": [image], "annotations": [box | {"iscrowd": 0}]}
    content |= {"categories": [{"id": 1, "name": "cone"}]}
    (tmp_path / "boxes.json").write_text(json.dumps(content), encoding="utf-8")
    for command in (
        ("mask", "boxes.json", "--stride", "8", "--server", "local:", "--out", "masks.npz"),
        ("plot", "boxes.json", "--image", "1", "--out", "1.png"),
    ):
        subprocess.run([programs / "cass", *command], cwd=tmp_path, timeout=300, check=True)
    assert (tmp_path / "masks.npz").stat().st_size > 0
    assert (tmp_path / "1.png").read_bytes().startswith(b"\x89PNG")


def test_the_server_with_the_lowest_versions(environment: Environment, tmp_path: Path) -> None:
    programs = environment("lowest-direct", "server", "http", "telemetry")
    program = ("-P", "-m", "cass_server", "serve")  # -P: nothing of the folder it runs in
    options = {"program": program, "interpreter": str(programs / "python")}
    with server_process("--workers", "2", "--http-port", "0", **options) as server:
        http = server.wait_for("http", 400.0)["address"]
        # Kernels are compiled anew.
        server.address = server.wait_for("serving", 400.0)["address"]
        assert asked(programs, server, tmp_path) == ANSWER
        box = b'{"boxes": [[[0, 0, 32, 32]]], "image_size": [32, 32], "feature_map": [1, 1]}'
        headers = {"content-type": "application/json"}
        for path, body, part in (
            ("/v1/masks", box, b'{"masks":[[[[1.0]]]]}'),
            ("/cass.v1.CassService/GetServerInfo", b"{}", b'"device"'),
        ):
            request = urllib.request.Request(f"http://{http}{path}", body, headers)
            with urllib.request.urlopen(request, timeout=LIMIT) as answer:
                assert part in answer.read()
        assert server.stop() == 0
