"""Runs `cass-server` in a container, with the kernels that were compiled when the image was built.

Numba reads a cache only where it can write, and only what was compiled for the very processor. So
the image's kernels are for a level that most processors have, and are copied to NUMBA_CACHE_DIR.
Elsewhere they are compiled at the start, as without an image, which takes some 20 s.
"""

from __future__ import annotations

import contextlib
import os
import platform
import re
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

KERNELS = Path(__file__).with_name("kernels")
GPU_KERNELS = Path(__file__).with_name("triton")

LEVEL = "x86-64-v3"
"""Servers have it since 2013 (Haswell) and 2015 (Excavator)."""
# https://gitlab.com/x86-psABIs/x86-64-ABI; LZCNT is abm to Linux, and AVX2 implies what v2 has.
_LEVEL_FLAGS = {"avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe", "xsave"}


def has_level(cpuinfo: str) -> bool:
    """Whether a processor has the level, by the text of /proc/cpuinfo."""
    flags = re.search(r"^flags\s*:(.*)$", cpuinfo, re.MULTILINE)
    return flags is not None and set(flags[1].split()) >= _LEVEL_FLAGS


def choose_level() -> bool:
    """Have numba compile for the level, where the processor has it; called before numba is.

    Returns:
        Whether it has, and nothing else was asked for.
    """
    cpuinfo = Path("/proc/cpuinfo")
    if platform.machine() != "x86_64" or not has_level(cpuinfo.read_text(encoding="utf-8")):
        return False
    # No features beyond the level's own.
    chosen = {"NUMBA_CPU_NAME": LEVEL, "NUMBA_CPU_FEATURES": ""}
    for name, value in chosen.items():
        os.environ.setdefault(name, value)
    return all(os.environ[name] == value for name, value in chosen.items())


def take_kernels() -> None:
    """Put the image's kernels where numba looks for them, unless there are some."""
    _copy(KERNELS, Path(os.environ["NUMBA_CACHE_DIR"]))


def take_gpu_kernels() -> None:
    """Tell Triton, where it looks for kernels, of those of the image for GPUs."""
    if folder := os.environ.get("TRITON_CACHE_DIR"):
        # What lists a kernel's files has their whole paths, so that they can stay in the image.
        _copy(GPU_KERNELS, Path(folder), ignore=_all_but_lists)


def _copy(kernels: Path, cache: Path, **options: Any) -> None:
    # An image has kernels of one kind; without a folder to write to, they are compiled.
    with contextlib.suppress(OSError, shutil.Error):
        if not cache.exists() or not any(cache.iterdir()):  # a volume is there, and empty
            shutil.copytree(kernels, cache, dirs_exist_ok=True, **options)


def _all_but_lists(folder: str, names: list[str]) -> list[str]:
    return [
        name
        for name in names
        if not name.startswith("__grp__") and not os.path.isdir(os.path.join(folder, name))
    ]


def main() -> None:
    """Run the command with this program's arguments."""
    # Linux keeps signals without a handler from a container's first process. Until the server has
    # its own, there is nothing to end in order.
    signal.signal(signal.SIGTERM, lambda number, _: os._exit(128 + number))
    if choose_level():
        take_kernels()
    take_gpu_kernels()
    from cass_server.cli import main as run

    sys.argv[0] = "cass-server"
    run()


if __name__ == "__main__":
    main()
