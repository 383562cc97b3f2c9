"""Writes the reports of an ablation: a Markdown file for each measure, and its plots."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from cass_cli.figures import save
from cass_cli.files import whole_file
from cass_lab.data.dataset import Dataset
from cass_lab.measures.blind import training_prior
from cass_lab.reports import plots
from cass_lab.reports.comparison import Comparison, by_variant
from cass_lab.reports.sections import (
    HEADLINE,
    ap_section,
    ap_summary,
    head_section,
    recall_section,
    recall_summary,
    targets_section,
)
from cass_lab.training.runs import Record, Store
from cass_lab.training.variants import Variant

_DPI = 120


class Report(NamedTuple):
    """A written report, and what of it a terminal has room for.

    Attributes:
        path: the Markdown file.
        table: its head and a row for each variant.
    """

    path: Path
    table: list[list[str]]


def write_reports(
    records: Sequence[Record],
    variants: Sequence[Variant],
    data: tuple[Dataset, Dataset],
    stride: int,
    store: Store,
) -> list[Report]:
    """Write ``recall.md`` or ``ap.md``, whichever was measured, and their plots beside the results.

    Args:
        records: of all runs, the baseline's among them for every measure.
        variants: what ran.
        data: trained and measured on.
        stride: pixels of a patch's side.
        store: has the values by object; its folder gets the reports.

    Raises:
        InvalidRequest: the baseline is missing, or a variant has other seeds than it.
    """
    written = []
    for measure in ("recall", "ap"):
        mine = [record for record in records if record["settings"]["measure"] == measure]
        if not mine:
            continue
        if measure == "recall":
            changes = {variant.name: variant.changes for variant in variants}
            comparison = Comparison(mine, data[1], store, changes)
            curves, differences = (
                store.folder / f"{name}.png" for name in ("recall", "differences")
            )
            save(plots.recall_curves(comparison), curves, _DPI)
            save(plots.recall_differences(comparison, HEADLINE), differences, _DPI)
            prior = training_prior(data, stride)
            sections = [
                recall_section(comparison, prior),
                targets_section(variants, data[0], stride),
            ]
            table = recall_summary(comparison)
        else:
            detectors = by_variant(mine)
            save(plots.ap_differences(detectors), store.folder / "ap.png", _DPI)
            sections, table = [ap_section(detectors)], ap_summary(detectors)
        path = store.folder / f"{measure}.md"
        with whole_file(path) as file:
            file.write(("\n\n".join([head_section(mine, data, stride), *sections]) + "\n").encode())
        written.append(Report(path, table))
    return written
