"""docs/http.md: its server, its command, its requests in JSON and its program."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import urllib.request
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from cass_core import generate_mask
from tests.e2e.pages import command_lines, commands, page, programs
from tests.support.programs import printed
from tests.support.servers import serving

PAGE = "docs/http.md"
JSON_BLOCKS = [
    json.loads(text)
    for text in re.findall(r"```json\n(.*?)```", page(PAGE), re.DOTALL)
    if "error" not in text
]


def shown(beginning: str) -> list[str]:
    """The command that begins so."""
    pairs = zip(command_lines(page(PAGE)), commands(page(PAGE)), strict=True)
    (command,) = [command for line, command in pairs if line.startswith(beginning)]
    return command


@pytest.fixture(scope="module")
def service() -> Iterator[str]:
    """Where the page's server serves HTTP: on a free port."""
    _, _, *arguments = shown("cass-server serve")
    with serving(*("0" if given == "8080" else given for given in arguments)) as server:
        yield server.records("http")[0]["address"]


def posted(address: str, path: str, body: Any) -> Any:
    """The answer in JSON."""
    request = urllib.request.Request(
        f"http://{address}{path}", json.dumps(body).encode(), {"content-type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_curl(service: str) -> None:
    command = [part.replace("localhost:8080", service) for part in shown("curl")]
    done = subprocess.run(command, capture_output=True, timeout=60, check=True)
    (mask,) = json.loads(done.stdout)["masks"]
    expected = generate_mask([np.array([[8, 8, 24, 24]])], (32, 32), (2, 4))
    assert np.array_equal(np.array(mask, np.float32), expected)


def test_requests(service: str) -> None:
    masks, loss = JSON_BLOCKS
    answer = posted(service, "/v1/masks", masks)
    assert {name: len(levels) for name, levels in answer.items()} == {
        "masks": 2,
        "owners": 2,
        "weights": 2,
    }
    assert answer["masks"][0]["shape"] == [2, 60, 80]
    assert list(posted(service, "/v1/loss", loss)) == ["loss", "sum", "normalizer", "grad"]


def test_all_paths_are_told(service: str) -> None:
    with urllib.request.urlopen(f"http://{service}/openapi.json", timeout=60) as answer:
        document = json.load(answer)
    for path, methods in document["paths"].items():
        (method,) = methods
        assert f"| `{method.upper()} {path}` |" in page(PAGE)


@pytest.mark.slow
def test_program() -> None:
    (program,) = programs(page(PAGE))
    assert json.loads(printed("-c", program)) == {"status": "SERVING"}
