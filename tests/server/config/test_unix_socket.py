"""A server on a socket in the file system, for callers of one machine."""

from __future__ import annotations

import stat
from pathlib import Path

import numpy as np
import pytest

from cass_client import CassClient, MaskRequest, MaskSpec
from cass_core import generate_mask
from cass_core.synthetic import street_boxes
from tests.server.config.test_settings import refusal
from tests.server.support.processes import cass_server
from tests.support.servers import serving

SIZE, MAP, SPEC = (96, 160), (12, 20), MaskSpec(patch_size=1)
BOXES = street_boxes(2, 5, image_size=SIZE)


@pytest.mark.slow
def test_calls_and_streams(tmp_path: Path) -> None:
    expected = generate_mask(BOXES, SIZE, MAP, SPEC)
    address = f"unix:{tmp_path}/cass.sock"
    for _ in range(2):  # and again on what the first one left
        with serving("--host", address, "--workers", "auto") as server:
            assert server.address == address
            assert stat.S_ISSOCK((tmp_path / "cass.sock").stat().st_mode)
            with CassClient(address, timeout=60) as client:
                np.testing.assert_array_equal(
                    client.generate_mask(BOXES, SIZE, MAP, SPEC), expected
                )
                for mask in client.stream_masks([MaskRequest(BOXES, SIZE, MAP, SPEC)] * 3):
                    np.testing.assert_array_equal(mask, expected)
            assert cass_server("health", "--address", address).returncode == 0
            second = cass_server("serve", "--host", address, "--device", "cpu")
            assert second.returncode == 1
            assert f"cannot listen on {address}: another process does already" in second.stderr
            with CassClient(address, timeout=60) as client:
                assert client.info().device == "cpu"
            server.process.kill()  # which leaves the socket


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    address = f"unix:{tmp_path}/absent/cass.sock"
    done = cass_server("serve", "--host", address, "--device", "cpu")
    assert done.returncode == 1
    assert f"cannot listen on {address}: there is no folder {tmp_path}/absent" in done.stderr


@pytest.mark.parametrize("workers", ["2", "16"])
def test_workers_cannot_share_it(workers: str) -> None:
    assert refusal({"host": "unix:/run/cass.sock", "workers": workers}) == (
        "--workers (command line): cannot share a unix: host, must be 1 or auto"
    )
