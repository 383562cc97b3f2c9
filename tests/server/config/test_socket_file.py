"""A path for a socket at which there is something else, which stays as it is."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from cass_core.errors import CassError
from cass_server.config.address import check_socket
from tests.server.support.processes import cass_server


def refused(path: Path) -> str:
    with pytest.raises(CassError) as caught:
        check_socket(f"unix:{path}")
    return str(caught.value).removeprefix(f"cannot listen on unix:{path}: ")


def test_a_file_stays(tmp_path: Path) -> None:
    file = tmp_path / "notes.txt"
    file.write_text("kept")
    done = cass_server("serve", "--device", "cpu", "--host", f"unix:{file}")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        f"cass-server: cannot listen on unix:{file}: a file that is no socket has that name"
    )
    assert file.read_text() == "kept"


def test_fifos_folders_and_links(tmp_path: Path) -> None:
    fifo, link = tmp_path / "fifo", tmp_path / "link"
    os.mkfifo(fifo)
    link.symlink_to(tmp_path / "nowhere")
    for path in (fifo, link, tmp_path):
        assert refused(path) == "a file that is no socket has that name"
    assert stat.S_ISFIFO(fifo.stat().st_mode)
    assert link.is_symlink()


def test_a_path_that_no_socket_can_have(tmp_path: Path) -> None:
    assert refused(tmp_path / ("a" * 107)) == "the path is longer than 107 bytes"
    assert refused(tmp_path / "no" / "x") == f"there is no folder {tmp_path}/no"
