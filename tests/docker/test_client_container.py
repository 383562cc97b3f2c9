"""The client's image, which asks the server's over a network of containers."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path

import numpy as np
import pytest

from cass_core import MaskSpec, generate_mask
from tests.docker.engine import Engine

pytestmark = pytest.mark.timeout(120, func_only=True)  # images may have to be built first

BOX = (40.0, 20.0, 30.0, 60.0)  # x, y, width, height
ANNOTATIONS = {
    "images": [{"id": 1, "height": 184, "width": 320, "file_name": "1.png"}],
    "annotations": [{"id": 1, "image_id": 1, "bbox": BOX}],
}


def test_masks_of_a_file_come_from_the_server(
    engine: Engine, server_image: str, client_image: str, tmp_path: Path
) -> None:
    (tmp_path / "instances.json").write_text(json.dumps(ANNOTATIONS))
    network = f"cass-test-{os.getpid()}"
    with (
        engine.network(network),
        engine.container(
            server_image, "--network", network, "--env", "CASS_INSECURE=true"
        ) as server,
    ):
        server.wait_until_serving()
        target = f"{server.address(network)}:50051"
        options = ("--network", network, "--read-only", "--cap-drop", "all")
        info = ("info", "--server", target)
        assert "cpu" in engine.finish(client_image, *options, command=info)
        # What it writes belongs to whoever runs it.
        mine = ("--user", f"{os.getuid()}:{os.getgid()}", "--volume", f"{tmp_path}:/work")
        mask = ("mask", "instances.json", "--out", "masks.npz", "--server", target)
        mask += ("--stride", "8", "--set", "patch_size=1")
        engine.finish(client_image, *options, *mine, command=mask)
    x, y, width, height = BOX
    boxes = [np.array([[x, y, x + width, y + height]], np.float32)]
    spec = dataclasses.replace(MaskSpec.improved(), patch_size=1)
    expected = generate_mask(boxes, (184, 320), (23, 40), spec)
    with np.load(tmp_path / "masks.npz") as made:
        assert made["masks"].tobytes() == expected.tobytes()


def test_the_client_is_light(engine: Engine, client_image: str) -> None:
    program = "import importlib.util as u; print([n for n in ('torch', 'numba') if u.find_spec(n)])"
    told = engine.finish(client_image, "--entrypoint", "python", command=("-c", program))
    assert told == "[]\n"
