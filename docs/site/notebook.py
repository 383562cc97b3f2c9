"""The notebook of examples/ as a page: its cells as it was run, pictures as files."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from stage import NOTEBOOK, NOTEBOOK_PAGE, ROOT, Page


def notebook_page(pictures: dict[str, bytes], root: Path = ROOT) -> Page:
    """The page; its pictures are added to what is given, by their names on the site."""
    content = json.loads((root / NOTEBOOK).read_text(encoding="utf-8"))
    parts = [part for cell in content["cells"] for part in _parts(cell, pictures)]
    head, *rest = parts
    whole = "The notebook itself, to run: `examples/cass.ipynb`."
    return Page(NOTEBOOK_PAGE, NOTEBOOK, "\n\n".join([head, whole, *rest]) + "\n")


def _parts(cell: dict[str, Any], pictures: dict[str, bytes]) -> Iterator[str]:
    """A cell and what it has printed and shown."""
    text = "".join(cell["source"])
    if cell["cell_type"] == "markdown":
        yield text
        return
    yield f"```python\n{text}\n```"
    for output in cell["outputs"]:
        if "text" in output:
            yield f"```text\n{''.join(output['text']).rstrip()}\n```"
        elif "image/png" in output.get("data", {}):
            name = f"notebook-{len(pictures) + 1}.png"
            pictures[name] = base64.b64decode(output["data"]["image/png"])
            yield f"![What the lines above show](site:{name})"
