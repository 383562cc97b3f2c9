"""What the images say of themselves, and how large they are."""

from __future__ import annotations

import pytest

from cass_core import __version__
from tests.docker.engine import Engine

pytestmark = pytest.mark.timeout(60, func_only=True)  # images may have to be built first

MEGABYTE = 1_000_000


def test_the_server_image_tells_how_to_run_it(engine: Engine, server_image: str) -> None:
    image = engine.inspect(server_image)
    config = image["Config"]
    assert config["User"] == "10001:10001"
    assert set(config["ExposedPorts"]) == {"50051/tcp", "9090/tcp"}
    assert config["StopSignal"] == "SIGTERM"
    # A shell in between would not pass signals on.
    assert config["Entrypoint"][0] == "/opt/cass/bin/python"
    assert config["Cmd"] == ["serve"]
    check = image.get("Healthcheck") or config["Healthcheck"]  # podman's place, docker's
    assert check["Test"] == ["CMD", "/opt/cass/bin/python", "/opt/cass/health.py"]


@pytest.mark.parametrize("target", ["server", "client"])
def test_labels(engine: Engine, target: str, request: pytest.FixtureRequest) -> None:
    labels = engine.inspect(request.getfixturevalue(f"{target}_image"))["Config"]["Labels"]
    told = {name.removeprefix("org.opencontainers.image."): text for name, text in labels.items()}
    assert told["version"] == __version__
    assert told["licenses"] == "Apache-2.0"
    assert {"title", "description", "revision", "source"} <= told.keys()


_LISTED = """
import json
from importlib.metadata import distributions
from pathlib import Path

listed = json.loads(Path("/opt/cass/sbom.cdx.json").read_text())
names = {each["name"].lower().replace("_", "-").replace(".", "-"): each["version"]
         for each in (listed["metadata"]["component"], *listed["components"])}
there = {each.name.lower().replace("_", "-").replace(".", "-"): each for each in distributions()}
assert names == {name: each.version for name, each in there.items()}, names
texts = [file for each in there.values() for file in each.files or ()
         if file.name.upper().startswith(("LICEN", "COPYING"))]
assert all(file.locate().stat().st_size for file in texts)
print(len(names), len(texts))
"""


@pytest.mark.parametrize("target", ["server", "client"])
def test_packages_are_listed_and_have_their_licences(
    engine: Engine, target: str, request: pytest.FixtureRequest
) -> None:
    image = request.getfixturevalue(f"{target}_image")
    told = engine.finish(image, "--entrypoint", "python", command=("-c", _LISTED))
    packages, texts = map(int, told.split())
    assert packages >= 19
    assert texts >= packages - 1  # opencensus-context alone, of Ray's, has none


@pytest.mark.parametrize(("target", "most"), [("server", 1200), ("client", 500)])
def test_size(
    engine: Engine,
    target: str,
    most: int,
    request: pytest.FixtureRequest,
    capsys: pytest.CaptureFixture[str],
) -> None:
    size = engine.inspect(request.getfixturevalue(f"{target}_image"))["Size"] / MEGABYTE
    with capsys.disabled():
        print(f" [{target} image: {size:.0f} MB unpacked]", end="")
    assert size < most
