"""The images of the stack that are not this project's: pulled, or stood in for.

Where there is no registry, an image of the same name is made of what this machine has installed:
the program, the libraries that it is linked with, and a folder for its data.
"""

from __future__ import annotations

import io
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path

from tests.docker.engine import LIMIT, Engine
from tests.docker.stack.programs import program

_PULL_SECONDS = 600.0


@dataclass(frozen=True)
class StandIn:
    """An image of installed programs, folders that its user can write to, and configuration."""

    programs: tuple[str, ...]
    folders: tuple[str, ...] = ()
    user: int = 0
    changes: tuple[str, ...] = ()


STAND_INS = {
    "haproxy": StandIn(("haproxy",), changes=("ENV PATH=/bin",)),
    "prometheus": StandIn(
        ("prometheus", "promtool"), ("prometheus",), 65534, ('ENTRYPOINT ["/bin/prometheus"]',)
    ),
}
"""By the last part of the image's name."""


def provide(engine: Engine, image: str, folder: Path) -> None:
    """See to it that there is an image of that name; the test is skipped where that cannot be."""
    if engine.run("image", "inspect", image).returncode == 0:
        return
    if engine.run("pull", image, limit=_PULL_SECONDS).returncode == 0:
        return
    stand_in = STAND_INS[image.rpartition("/")[2].partition(":")[0]]
    archive = folder / "stand-in.tar"
    _write(stand_in, archive)
    changes = [f"--change={change}" for change in stand_in.changes]
    engine("import", *changes, str(archive), image)


def _write(stand_in: StandIn, archive: Path) -> None:
    with tarfile.open(archive, "w") as tar:
        paths = {name: program(name) for name in stand_in.programs}
        for name, path in paths.items():
            tar.add(path, f"bin/{name}")
        for library in {library for path in paths.values() for library in _libraries(path)}:
            # At the path where the loader looks for it, whatever links lead there.
            tar.add(library.resolve(), str(library).removeprefix("/"))
        for name in stand_in.folders:
            entry = tarfile.TarInfo(name)
            entry.type, entry.mode, entry.uid, entry.gid = (
                tarfile.DIRTYPE,
                0o755,
                stand_in.user,
                stand_in.user,
            )
            tar.addfile(entry, io.BytesIO())


def _libraries(path: str) -> list[Path]:
    """Everything that a program is linked with, the loader among it."""
    told = subprocess.run(
        ["ldd", path], capture_output=True, text=True, check=True, timeout=LIMIT
    ).stdout
    words = [word for line in told.splitlines() for word in line.split()]
    return [Path(word) for word in words if word.startswith("/")]
