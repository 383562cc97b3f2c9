"""The notebook of examples/ as a page: its cells as it was run, pictures as files."""

from __future__ import annotations

from pathlib import Path

import stage

NOTEBOOK = stage.ROOT / "examples" / "cass.ipynb"


def pages(folder: Path, notebook: Path = NOTEBOOK) -> dict[str, str]:
    """The page, by its name; its pictures are written to the folder."""
    return {}
