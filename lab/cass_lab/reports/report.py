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
from cass_lab.reports.comparison import Comparison, ap_difference, ap_values, by_variant
from cass_lab.reports.sections import (
    HEADLINE,
    ap_section,
    head_section,
    recall_section,
    targets_section,
)
from cass_lab.reports.tables import percent_with_spread, points
from cass_lab.training.detector import KEEP_RATIOS as DETECTOR_KEEP_RATIOS
from cass_lab.training.runs import Record, Store
from cass_lab.training.variants import BASELINE, Variant

_DPI = 120


class Report(NamedTuple):
    """A written report, and what of it a terminal has room for.

    Attributes:
        path: the Markdown file.
        head: of the columns.
        rows: one a variant.
    """

    path: Path
    head: list[str]
    rows: list[list[str]]


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
    for measure, write in (("recall", _write_recall), ("ap", _write_ap)):
        mine = [record for record in records if record["settings"]["measure"] == measure]
        if mine:
            sections, table = write(mine, variants, data, stride, store)
            path = store.folder / f"{measure}.md"
            with whole_file(path) as file:
                text = "\n\n".join([head_section(mine, data, stride), *sections]) + "\n"
                file.write(text.encode())
            written.append(Report(path, *table))
    return written


_Table = tuple[list[str], list[list[str]]]


def _write_recall(
    records: Sequence[Record],
    variants: Sequence[Variant],
    data: tuple[Dataset, Dataset],
    stride: int,
    store: Store,
) -> tuple[list[str], _Table]:
    comparison = Comparison(records, data[1], store)
    save(plots.recall_curves(comparison), store.folder / "recall.png", dpi=_DPI)
    save(plots.recall_differences(comparison, HEADLINE), store.folder / "differences.png", dpi=_DPI)
    sections = [
        recall_section(comparison, training_prior(data, stride)),
        targets_section(variants, data[0], stride),
    ]
    rows = [
        [
            result.name,
            percent_with_spread(comparison.recall(result, "all", HEADLINE)),
            ""
            if result is comparison.baseline
            else points(comparison.recall_difference(result, "all", HEADLINE)),
        ]
        for result in comparison.results
    ]
    return sections, (["variant", f"recall at {100 * HEADLINE:g} %", "difference"], rows)


def _write_ap(
    records: Sequence[Record],
    variants: Sequence[Variant],
    data: tuple[Dataset, Dataset],
    stride: int,
    store: Store,
) -> tuple[list[str], _Table]:
    detectors = by_variant(records)
    save(plots.ap_differences(detectors), store.folder / "ap.png", dpi=_DPI)
    keep = min(DETECTOR_KEEP_RATIOS)
    rows = [
        [
            name,
            percent_with_spread(ap_values(mine, keep, "AP")),
            ""
            if name == BASELINE
            else points(ap_difference(mine, detectors[BASELINE], keep, "AP")),
        ]
        for name, mine in detectors.items()
    ]
    return [ap_section(detectors)], (["variant", f"AP at {100 * keep:g} %", "difference"], rows)
