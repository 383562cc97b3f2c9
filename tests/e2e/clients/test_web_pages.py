"""Web pages that ask a real server over HTTP, in a headless browser: Connect and gRPC-Web."""

from __future__ import annotations

import html
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cass_core import LossSpec, compute_loss, generate_mask
from tests.e2e.clients.building import Builder, Client, Program
from tests.lab.sheet.browser import dom_of, needs_browser
from tests.support.servers import serving

pytestmark = pytest.mark.timeout(600)

BUILD = "npm ci && npm run build"


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Client:
    """Both, built."""
    builder = Builder(tmp_path_factory.mktemp("web"))
    return builder.client(Program("web", "connect.ts", BUILD, ""))


@pytest.fixture(scope="module")
def service() -> Iterator[str]:
    """Where a server serves HTTP; a page that is a file has no origin to name."""
    with serving("--http-port", "0", "--http-origins", "*") as server:
        yield server.records("http")[0]["address"]


def shown(pages: Client, script: str, address: str, folder: Path) -> str:
    """What the page with the script shows once it has asked."""
    shutil.copytree(pages.folder / "build", folder / "build")
    text = (pages.folder / "page.html").read_text()
    assert 'src="build/connect.js" data-server="http://localhost:8080"' in text
    page = folder / "page.html"
    page.write_text(text.replace("connect.js", script).replace("localhost:8080", address))
    found = re.search(r'<pre id="found">(.*?)</pre>', dom_of(page, folder / "profile"), re.DOTALL)
    assert found is not None
    return html.unescape(found[1])


@needs_browser
@pytest.mark.parametrize(
    ("script", "code"), [("connect.js", "InvalidArgument"), ("grpc_web.js", "3")]
)
def test_numbers_are_those_of_the_core(
    pages: Client, service: str, tmp_path: Path, script: str, code: str
) -> None:
    found: Any = json.loads(shown(pages, script, service, tmp_path))
    first = np.array([[100, 120, 140, 200], [300.5, 80, 420, 220]], np.float32)
    boxes = [first, np.array([[600, 400, 660, 470]], np.float32)]
    masks = generate_mask(boxes, (480, 640), [(60, 80), (30, 40)])
    logits = (np.arange(2400) % 9 / 4 - 1).astype(np.float32).reshape(2, 30, 40)
    spec = LossSpec(reduction="per_object")
    result = compute_loss(logits, masks[1], spec, num_boxes=3, return_grad=True)
    expected = [array.tobytes() for array in (*masks, result.loss, result.grad)]
    assert [bytes.fromhex(one) for one in found["tensors"]] == expected
    assert found["refusal"] == [code, "feature_map"]


@needs_browser
def test_a_page_that_is_not_named_gets_nothing(pages: Client, tmp_path: Path) -> None:
    with serving("--http-port", "0", "--http-origins", "https://labels.example") as server:
        address = server.records("http")[0]["address"]
        assert shown(pages, "connect.js", address, tmp_path).startswith("failed: ")
