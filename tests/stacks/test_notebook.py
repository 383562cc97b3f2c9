"""The notebook runs from its first cell to its last, and does what it says."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed: make stacks-test")
nbformat = pytest.importorskip("nbformat")
pytest.importorskip("ipykernel")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

NOTEBOOK = Path(__file__).resolve().parents[2] / "examples" / "cass.ipynb"


def printed(cell: Any) -> str:
    return "".join("".join(o["text"]) for o in cell.get("outputs", []) if "text" in o)


def pictures(cell: Any) -> int:
    return sum("image/png" in o.get("data", {}) for o in cell.get("outputs", []))


def test_it_runs(tmp_path: Path) -> None:
    committed = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    # Of the committed one no output is left that could pass for a new one.
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    resources = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(notebook, timeout=800, resources=resources).execute()
    assert list(map(pictures, notebook.cells)) == list(map(pictures, committed["cells"]))
    text = "".join(map(printed, notebook.cells))
    # Both predictors learn, and the objects with equal shares are found first.
    (alike, by_object) = re.findall(r"alike: 2% kept: .*?, 10% kept: ([\d.]+)% lost", text)
    assert float(by_object) < float(alike) < 30


def test_its_outputs_are_those_of_one_run() -> None:
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    assert all(output["output_type"] != "error" for cell in code for output in cell["outputs"])
    assert NOTEBOOK.stat().st_size < 600_000
