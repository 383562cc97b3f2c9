"""Where `cass` writes to: links, pipes, devices, full disks, signals, and names of every kind."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import gzip
import io
import json
import os
import pty
import re
import resource
import signal
import stat
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cass_cli.coco import read_coco
from cass_cli.figures import figure_paths
from cass_cli.files import whole_file
from cass_core import CassError
from tests.support.programs import ended

pytestmark = pytest.mark.slow

IMAGE = {"id": 1, "height": 64, "width": 96}
FILE = {"images": [IMAGE], "annotations": [{"image_id": 1, "bbox": [8, 8, 16, 16]}]}
needs_nodes = pytest.mark.skipif(os.geteuid() != 0, reason="needs the superuser")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "file.json").write_text(json.dumps(FILE))
    return tmp_path


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def mask(folder: Path, out: str, *more: str, code: int = 0, **env: str) -> str:
    done = ended("-m", "cass_cli", "mask", "file.json", "--out", out, *more, cwd=folder, env=env)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


def holds_masks(content: bytes | Path) -> bool:
    with np.load(io.BytesIO(content) if isinstance(content, bytes) else content) as npz:
        return npz["masks"].shape[0] == 1 and npz["image_ids"].tolist() == [1]


def test_links_are_followed(folder: Path) -> None:
    (folder / "there").mkdir()
    (folder / "there" / "old.npz").write_bytes(b"of before")
    (folder / "there" / "old.npz").chmod(0o640)
    for link, target in (
        ("a.npz", "there/old.npz"),
        ("b.npz", "there/new.npz"),
        ("c.npz", "a.npz"),
    ):
        (folder / link).symlink_to(target)
        mask(folder, link)
        assert (folder / link).readlink() == Path(target)
        assert holds_masks(folder / link)
    assert names(folder / "there") == {"old.npz", "new.npz"}
    assert stat.S_IMODE((folder / "there" / "old.npz").stat().st_mode) == 0o640


@needs_nodes
def test_owners_are_kept(folder: Path) -> None:
    (folder / "m.npz").touch()
    os.chown(folder / "m.npz", 1234, 2345)
    mask(folder, "m.npz")
    assert ((folder / "m.npz").stat().st_uid, (folder / "m.npz").stat().st_gid) == (1234, 2345)


def test_names_do_nothing_to_a_terminal(folder: Path) -> None:
    image = IMAGE | {"file_name": "a\x1b[31m\nb\x9b.png"}
    (folder / "file.json").write_text(json.dumps({"images": [image], "annotations": []}))
    errors = mask(folder, "m.npz", "--plot", "f", "--images", ".", code=1)
    assert errors.splitlines()[-1] == "cass: --images: a\\x1b[31m\\nb\\x9b.png: no such file"


RED = "\x1b[31m"


def test_paths_do_nothing_to_a_terminal(folder: Path) -> None:
    crowd = {"image_id": 1, "bbox": [0, 0, 9, 9], "iscrowd": 1}
    content = {"images": [IMAGE], "annotations": [crowd]}
    (folder / f"a{RED}.json").write_text(json.dumps(content))
    for command in (
        ["mask", "--out", f"m{RED}.npz"],
        ["plot", "--image", "1", "--out", f"p{RED}.png"],
    ):
        done = ended("-m", "cass_cli", *command, f"a{RED}.json", cwd=folder)
        assert (done.returncode, "\x1b" in done.stdout + done.stderr) == (0, False)
        assert "a\\x1b[31m.json: 1 crowd region left out" in done.stderr
        shown = command[-1].replace("\x1b", "\\x1b")
        assert shown in done.stdout + done.stderr
    assert f"m{RED}.npz" in names(folder)


def test_a_link_to_itself_is_refused(folder: Path) -> None:
    (folder / "m.npz").symlink_to("m.npz")
    assert "m.npz" in mask(folder, "m.npz", code=1)
    assert (folder / "m.npz").is_symlink()


def test_a_pipe_is_written_through(folder: Path) -> None:
    os.mkfifo(folder / "m.npz")
    read: list[bytes] = []
    reader = threading.Thread(target=lambda: read.append((folder / "m.npz").read_bytes()))
    reader.start()
    mask(folder, "m.npz")
    reader.join()
    assert holds_masks(read[0])
    assert (folder / "m.npz").is_fifo()
    assert names(folder) == {"file.json", "m.npz"}


@needs_nodes
@pytest.mark.parametrize("through_link", [False, True])
def test_a_device_stays_one(folder: Path, through_link: bool) -> None:
    os.mknod(folder / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    (folder / "link").symlink_to("null")
    mask(folder, "link" if through_link else "null")
    assert (folder / "null").is_char_device()
    assert names(folder) == {"file.json", "null", "link"}


@needs_nodes
def test_a_full_device(folder: Path) -> None:
    os.mknod(folder / "full", stat.S_IFCHR | 0o666, os.makedev(1, 7))
    errors = mask(folder, "full", code=1)
    assert errors.endswith("cass: full: No space left on device; it is not written\n")
    assert (folder / "full").is_char_device()


@needs_nodes
def test_endless_input_is_refused(folder: Path) -> None:
    (folder / "file.json").unlink()
    os.mknod(folder / "file.json", stat.S_IFCHR | 0o666, os.makedev(1, 5))
    assert mask(folder, "m.npz", code=1) == "cass: file.json: is neither a file nor a pipe\n"


def test_standard_output(folder: Path) -> None:
    command = [sys.executable, "-m", "cass_cli", "mask", "file.json", "--out", "/dev/stdout"]
    piped = subprocess.run(command, cwd=folder, capture_output=True, timeout=100, check=True)
    assert holds_masks(piped.stdout)
    with (folder / "m.npz").open("wb") as file:
        subprocess.run(command, cwd=folder, stdout=file, timeout=100, check=True)
    assert holds_masks(folder / "m.npz")


def test_what_is_read_is_not_written_over(folder: Path) -> None:
    before = (folder / "file.json").read_bytes()
    (folder / "link").symlink_to("file.json")
    for out in ("file.json", "link"):
        assert mask(folder, out, code=1).startswith(f"cass: --out: {out} is what is read")
    assert "--plot: " in mask(folder, "m.npz", "--plot", ".", "--images", ".", code=1)
    assert (folder / "file.json").read_bytes() == before
    assert names(folder) == {"file.json", "link"}


def test_pictures_are_not_written_over(folder: Path) -> None:
    """Not those of other images, nor through links and folders, nor before all else is known."""
    (folder / "pics" / "sub").mkdir(parents=True)
    pictures = ["sub/1.png", "sub\\2.png", "3.png"]
    images = [IMAGE | {"id": i, "file_name": name} for i, name in enumerate(pictures, start=1)]
    (folder / "file.json").write_text(json.dumps({"images": images, "annotations": []}))
    for name in ("sub/1.png", "sub/2.png", "3.png"):
        Image.new("RGB", (96, 64)).save(folder / "pics" / name)
    (folder / "link.npz").symlink_to("pics/sub/2.png")
    before = {path: path.read_bytes() for path in folder.rglob("*.png")}
    read = "is a picture that is read: give another path\n"
    with_figures = ("--images", "pics", "--plot")
    errors = mask(folder, "m.npz", *with_figures, "pics/sub", code=1)
    assert errors == f"cass: --plot: pics/sub/1.png {read}"
    for out in ("pics/3.png", "link.npz"):
        errors = mask(folder, out, *with_figures, "figures", code=1)
        assert errors == f"cass: --out: {out} {read}"
    plot = ["plot", "file.json", "--image", "1", "--images", "pics", "--out"]
    for out in ("pics/sub/1.png", "pics/3.png"):
        done = ended("-m", "cass_cli", *plot, out, cwd=folder)
        assert (done.returncode, done.stderr) == (1, f"cass: --out: {out} {read}")
    assert {path: path.read_bytes() for path in folder.rglob("*.png")} == before
    assert names(folder) == {"file.json", "pics", "link.npz"}


# Files end at so many bytes, as if the disk did.
FULL = """
import os, resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (300, 300))
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""


def test_a_full_disk_ends_in_one_line(folder: Path) -> None:
    (folder / "m.npz").write_bytes(b"of before")
    # No bytecode and no compiled loops are written: they would be cut as well.
    env = {"PYTHONDONTWRITEBYTECODE": "1", "NUMBA_CACHE_DIR": os.devnull}
    command = ["-m", "cass_cli", "mask", "file.json", "--out", "m.npz"]
    done = ended("-c", FULL, *command, cwd=folder, env=env)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == ("cass: m.npz: File too large; it is not written")
    assert "Traceback" not in done.stderr
    assert (folder / "m.npz").read_bytes() == b"of before"
    assert names(folder) == {"file.json", "m.npz"}


@pytest.mark.parametrize(
    "number",
    [signal.SIGTERM, signal.SIGHUP, signal.SIGINT],
)
def test_a_signal_leaves_nothing(folder: Path, number: signal.Signals) -> None:
    many = [IMAGE | {"id": i, "height": 2000, "width": 2000} for i in range(100_000)]
    (folder / "file.json").write_text(json.dumps({"images": many, "annotations": []}))
    # What runs in the background of a shell inherits that SIGINT is ignored.
    program = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "from cass_cli.main import main; main()"
    )
    command = [sys.executable, "-c", program, "mask", "file.json", "--out", "m.npz"]
    process = subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + 100
        while not list(folder.glob(".m.npz.*.part")):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(number)
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode in (128 + number, 1)
    assert "Traceback" not in errors
    if number != signal.SIGINT:
        line = errors.splitlines()[-1]
        assert line == f"cass: m.npz: stopped by {number.name}; it is not written"
    assert names(folder) == {"file.json"}


@pytest.mark.parametrize(
    "name",
    [
        "m[bold].npz",
        "run[/x].npz",
        ":cat:.npz",
        "$x$.npz",
        "ä–×.npz",
        "100%.npz",
        "m" * 240 + ".npz",
    ],
)
def test_names_are_as_they_are(folder: Path, name: str) -> None:
    (folder / name).parent.mkdir(exist_ok=True)
    errors = mask(folder, name, COLUMNS="40")
    assert f"\n{name}: 1 masks of 1 boxes, " in "\n" + errors
    assert holds_masks(folder / name)
    assert names((folder / name).parent) - {"file.json"} == {Path(name).name}


@pytest.mark.parametrize("name", ["–×.npz", "\udcff.npz"])
def test_names_that_a_locale_has_not(folder: Path, name: str) -> None:
    """Nothing but ASCII can be printed here."""
    env = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    assert ".npz: 1 masks of 1 boxes" in mask(folder, name, **env)
    assert holds_masks(folder / name)


def test_figures_of_any_ids(folder: Path) -> None:
    ids = [
        "cam/1",
        "cam_1",
        "cam 1",
        "..",
        ".",
        "",
        "A",
        "a",
        "x" * 300,
        "x" * 301,
        "$a_{$",
        7,
        "é",
    ]
    images = [IMAGE | {"id": image_id} for image_id in ids]
    (folder / "file.json").write_text(json.dumps({"images": images, "annotations": []}))
    mask(folder, "m.npz", "--plot", "figures")
    figures = list((folder / "figures").iterdir())
    assert len(figures) == len(ids) == len({path.name.lower() for path in figures})
    assert {"cam_1.png", "7.png", "é.png"} <= names(folder / "figures")
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in figures)
    assert names(folder) == {"file.json", "m.npz", "figures"}


def test_figure_paths_do_not_depend_on_what_comes_after() -> None:
    ids = [f"{head}{tail}" for head in ("a", "A", "%", "%25", "/") for tail in ("", "1", ".")]
    paths = figure_paths(Path("f"), ids)
    assert paths[:7] == figure_paths(Path("f"), ids[:7])
    assert len({path.name.lower() for path in paths}) == len(ids)


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_no_room_for_a_copy_of_the_input(tmp_path: Path) -> None:
    (tmp_path / "file.json.gz").write_bytes(gzip.compress(bytes(5000)))
    with pytest.raises(CassError, match=r"File too large, for a copy$"), largest_file(1000):
        read_coco(tmp_path / "file.json.gz")


@pytest.mark.parametrize("buffered", [10, 100_000])
def test_a_file_that_does_not_fit(tmp_path: Path, buffered: int) -> None:
    path = tmp_path / "a.bin"

    def write() -> None:
        with whole_file(path) as file, largest_file(5):
            file.write(bytes(buffered))
            file.flush()

    with pytest.raises(CassError, match=r"a\.bin: File too large; it is not written$"):
        write()
    assert not list(tmp_path.iterdir())


def test_errors_of_others_keep_their_words(tmp_path: Path) -> None:
    def write() -> None:
        with whole_file(tmp_path / "a.bin"):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), "picture.png")

    with pytest.raises(FileNotFoundError, match=r"picture\.png"):
        write()
    for path in (tmp_path, tmp_path / "none" / "a.bin", tmp_path / "b.bin" / "a.bin"):
        (tmp_path / "b.bin").touch()
        with pytest.raises((CassError, OSError), match=str(path)), whole_file(path):
            pass
    assert names(tmp_path) == {"b.bin"}


def test_progress_on_a_terminal(folder: Path) -> None:
    images = [IMAGE | {"id": i, "height": 64 + i} for i in range(5)]
    source = f"file{RED}.json"
    (folder / source).write_text(json.dumps({"images": images, "annotations": []}))
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 160, 0, 0))
    command = [sys.executable, "-m", "cass_cli", "mask", source, "--out", "m.npz"]
    env = {**os.environ, "TERM": "xterm", "COLUMNS": "160"}
    process = subprocess.Popen([*command, "--plot", "f"], cwd=folder, stderr=theirs, env=env)
    os.close(theirs)
    shown = b""
    try:
        with contextlib.suppress(OSError):  # Linux ends a terminal so
            while part := os.read(ours, 1 << 16):
                shown += part
        assert process.wait(timeout=100) == 0
    finally:
        process.kill()
        os.close(ours)
    assert b"file\x1b" not in shown
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode()).replace("\r", "\n")
    assert re.search(r"file\\x1b\[31m\.json: images .*bytes.* left", text)  # while the file is read
    steps = re.findall(r"images .* ([0-5])/5 +(?:\d[\d,.]*/s)? +0:\d\d:\d\d done, \S+ left", text)
    assert len(set(steps)) > 2  # a figure takes longer than from one look to the next
    assert "5" in steps
    assert re.search(r" 5/5 \d[\d,.]*/s ", text)
