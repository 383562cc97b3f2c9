"""`cass playground` as it is typed: what it prints, serves and refuses."""

from __future__ import annotations

import base64
import json
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cass_core import MaskSpec, generate_mask
from tests.cli.playground.command import playground
from tests.e2e.drawn_coco import write_coco
from tests.e2e.pages import commands, page
from tests.support.programs import ended

SHOWN = [c for name in ("README.md", "docs/playground.md") for c in commands(page(name))]
SHOWN = [command for command in SHOWN if command[:2] == ["cass", "playground"]]
BOX = [8.0, 8.0, 24.0, 24.0]


def ask(url: str, body: Any = None) -> Any:
    request = urllib.request.Request(
        url,
        None if body is None else json.dumps(body).encode(),
        {"content-type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


def check_masks(url: str) -> None:
    """Asks as the page does."""
    spec = {"preset": "baseline", "base_sigma": [0.4, 0.6], "use_anisotropic_gaussian": True}
    body = {
        "boxes": [[BOX]],
        "image_size": [32, 32],
        "feature_map": [4, 4],
        "mask_spec": spec,
        "return_owner": True,
        "return_weights": True,
        "encoding": "base64",
    }
    answer = ask(f"{url}v1/masks", body)
    expected = generate_mask(
        [[BOX]],
        (32, 32),
        (4, 4),
        MaskSpec.baseline().replace(base_sigma=(0.4, 0.6), use_anisotropic_gaussian=True),
        return_owner=True,
        return_weights=True,
    )
    for name, array in zip(("masks", "owners", "weights"), expected, strict=True):
        (found,) = answer[name]
        values = np.frombuffer(base64.b64decode(found["data"]), found["dtype"])
        np.testing.assert_array_equal(values.reshape(found["shape"]), array)
    with pytest.raises(urllib.error.HTTPError) as caught:
        ask(f"{url}v1/masks", {**body, "mask_spec": {"base_sigma": 0}})
    with caught.value as refused:
        assert refused.code == 400
        assert json.load(refused)["error"]["field"] == "mask_spec.base_sigma"


@pytest.mark.parametrize(
    "command",
    [
        # One that computes elsewhere starts with less.
        c if "--server" in c else pytest.param(c, marks=pytest.mark.slow)
        for c in map(tuple, SHOWN)
    ],
    ids=" ".join,
)
def test_commands_of_the_page(command: tuple[str, ...], address: str, tmp_path: Path) -> None:
    write_coco(tmp_path / "instances.json", tmp_path / "pictures", (41, 42))
    options = [address if word == "gpu-box:50051" else word for word in command[2:]]
    with playground(*options, cwd=tmp_path) as url:
        told = ask(f"{url}playground.json")
        assert told["target"] == (address if "--server" in command else "local:")
        if "--annotations" in command:
            assert told["data"] == {"file": "instances.json", "count": 2}
        check_masks(url)


def test_all_commands_are_shown() -> None:
    assert len(SHOWN) == 4
    assert sum("--server" in command for command in SHOWN) == 1


@pytest.mark.parametrize(
    ("options", "error"),
    [
        (["--images", "."], "--images: is for pictures of a data set: give --annotations too"),
        (["--annotations", "bad.json"], "cass: bad.json"),
        (["--server", ""], "cass: --server: "),
    ],
)
def test_refused(options: list[str], error: str, tmp_path: Path) -> None:
    (tmp_path / "bad.json").write_text("{")
    done = ended("-m", "cass_cli", "playground", "--no-browser", *options, cwd=tmp_path)
    assert done.returncode == 1
    assert error in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize("missing", ["uvicorn", "PIL"])
def test_without_its_extra(missing: str) -> None:
    code = f"""
        import sys
        sys.modules[{missing!r}] = None
        from cass_cli.main import main
        sys.argv = ["cass", "playground", "--no-browser"]
        main()
    """
    done = ended("-c", code)
    assert done.returncode == 1
    assert done.stderr == (
        f'cass: the playground needs {missing}; install it with: pip install "cass[playground]"\n'
    )
