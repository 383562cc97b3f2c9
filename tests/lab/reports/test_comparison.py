"""Which groups are compared, and what the tables say of the others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from markdown_it import MarkdownIt

from cass_lab.data.dataset import Dataset
from cass_lab.measures.blind import training_prior
from cass_lab.measures.keeping import KEEP_RATIOS
from cass_lab.reports.comparison import Comparison
from cass_lab.reports.sections import recall_section
from cass_lab.reports.tables import literal, markdown
from cass_lab.training.runs import Store
from tests.lab.support.drawn import boxes_alone

# 12 images: 24 squares of a class named like a group, 3 tall objects of another, in 3 images.
SQUARE, TALL = (0, 0, 8, 8), (8, 0, 12, 32)


def drawn() -> Dataset:
    boxes = [[SQUARE, SQUARE, *([TALL] if image < 3 else [])] for image in range(12)]
    labels = [int(box == TALL) for image in boxes for box in image]
    return boxes_alone(boxes, (32, 32), labels, ("tall", "pole"))


def compared(folder: Path, seeds: int) -> Comparison:
    """Each variant's recall is 0.25 better than the one's before for each object and seed."""
    store, records = Store(folder), []
    (folder / "objects").mkdir(exist_ok=True)
    for name, recall in (("baseline", 0.5), ("better", 0.75), ("best", 1.0)):
        for seed in range(seeds):
            key = f"{name}{seed}"
            np.savez(
                store.objects(key),
                recall=np.full((27, len(KEEP_RATIOS)), recall, np.float32),
                area=np.full(27, recall, np.float32),
            )
            record: dict[str, Any] = {"key": key, "variant": name, "settings": {"seed": seed}}
            records.append({**record, "results": {"calibration_error": 0.1}})
    changes = {"baseline": "baseline", "better": "baseline", "best": "better"}
    return Comparison(records, drawn(), store, changes)


def test_few_objects_are_not_compared(tmp_path: Path) -> None:
    comparison = compared(tmp_path, 2)
    better = comparison.others[0]
    assert (comparison.num_objects("tall"), comparison.num_images("tall")) == (3, 3)
    assert (comparison.num_objects("class tall"), comparison.num_images("class tall")) == (24, 12)
    assert comparison.recall_difference(better, "tall", 0.1) == (0.25, -np.inf, np.inf)
    assert comparison.recall_difference(better, "class tall", 0.1) == pytest.approx([0.25] * 3)
    assert comparison.area_difference(better, "all") == pytest.approx([0.25] * 3)


def test_the_tables_give_their_number_alone(tmp_path: Path) -> None:
    data = (drawn(), drawn())
    lines = recall_section(compared(tmp_path, 2), training_prior(data, 8)).splitlines()
    by_shape = lines.index("| variant | tall | square |")
    by_class = lines.index("| variant | tall | pole |")
    assert lines[by_shape + 2 : by_shape + 7] == [
        "| objects | 3 | 24 |",
        "| images with them | 3 | 12 |",
        "| baseline | – | 50.0 ± 0.0 |",
        "| better | – | **+25.0** [+25.0, +25.0] |",
        "| best | – | **+50.0** [+50.0, +50.0] |",
    ]
    assert lines[by_class + 2] == "| objects | 24 | 3 |"
    assert lines[by_class + 5] == "| better | **+25.0** [+25.0, +25.0] | – |"
    beside = lines.index("| variant | beside | 5 % | 10 % | 20 % | 30 % | 50 % | < 16 px, 10 % |")
    assert lines[beside + 2] == "| best | better" + " | **+25.0** [+25.0, +25.0]" * 6 + " |"
    assert lines[beside + 3] == ""
    assert "| *chance* | 5.0 | 10.0 | 20.0 | 30.0 | 50.0 | 50.0 | – | – |" in lines


def test_one_seed_has_no_interval(tmp_path: Path) -> None:
    data = (drawn(), drawn())
    text = recall_section(compared(tmp_path, 1), training_prior(data, 8))
    assert "| better | +25.0 | +25.0 | +25.0 | +25.0 | +25.0 | +25.0 |" in text
    assert "**" not in text


@pytest.mark.parametrize(
    "name",
    [
        *("cone|barrel", "a\\|b", "*all*", "**a**", "_a_", "a__b__c", "`x|y`", "<b>a</b>", "&amp;"),
        *("[a](b)", "traffic_light", "a \n b", "![a](b)", "~~a~~", "https://a.b", "\\", "a\\"),
        *("# a", ":smile:", "$x$", "<script>"),
    ],
)
def test_names_in_tables_are_as_they_are(name: str) -> None:
    table = markdown(["variant", literal(name)], [[literal(name), "1"]])
    tokens = MarkdownIt("gfm-like", {"linkify": False}).parse(table)
    cells = [token for token in tokens if token.type == "inline"]
    assert len(cells) == 4
    for cell in (cells[1], cells[2]):
        assert {child.type for child in cell.children or ()} <= {"text", "text_special"}
        assert "".join(c.content for c in cell.children or ()) == " ".join(name.split())
