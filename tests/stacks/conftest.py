"""torchvision beside a build of torch that its compiled operators were not made for.

Its wheel is for torch with CUDA; beside torch for the CPU it does not even import, since it gives
its operators meta kernels and they are not there. With their names declared it imports, and all
that is Python works: transforms, boxes, data sets.
"""

from __future__ import annotations

import importlib.util
import os
import re
import tempfile
from pathlib import Path
from typing import Any

_libraries: list[Any] = []


ENVIRONMENT = {
    # Small models: threads that wait for one another cost more than they gain.
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "NO_ALBUMENTATIONS_UPDATE": "1",
    "YOLO_OFFLINE": "1",
    "YOLO_CONFIG_DIR": tempfile.gettempdir(),
}


def _declare_operators(package: Path) -> None:
    import torch

    try:
        torch.ops.load_library(package / "_C.so")
    except OSError:
        text = (package / "_meta_registrations.py").read_text(encoding="utf-8")
        library = torch.library.Library("torchvision", "DEF")
        for name in sorted(
            set(re.findall(r'register_(?:meta|fake)\("(?:torchvision::)?(\w+)"', text))
        ):
            library.define(f"{name}(Tensor x) -> Tensor")
        _libraries.append(library)  # they are gone with it


spec = importlib.util.find_spec("torchvision")
if spec is not None and spec.origin is not None:
    os.environ.update(ENVIRONMENT)
    _declare_operators(Path(spec.origin).parent)
