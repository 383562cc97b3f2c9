"""The sections of an ablation's reports, in Markdown."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence

import numpy as np
import torch

from cass_core.specs import MaskSpec
from cass_lab.data.dataset import Dataset
from cass_lab.data.objects import SHAPES, SIZES, class_group
from cass_lab.data.targets import FACTS, box_facts, target_change
from cass_lab.measures.ap import AP_NAMES
from cass_lab.measures.keeping import KEEP_RATIOS, ObjectMeasures
from cass_lab.measures.statistics import REPLICATES
from cass_lab.reports.comparison import (
    LEAST_IMAGES,
    LEAST_OBJECTS,
    Comparison,
    VariantResult,
    ap_difference,
    ap_values,
)
from cass_lab.reports.tables import literal, markdown, percent, percent_with_spread, points
from cass_lab.training.detector import KEEP_RATIOS as DETECTOR_KEEP_RATIOS
from cass_lab.training.runs import Record
from cass_lab.training.variants import BASELINE, Variant

# Where few enough patches are kept that variants differ.
HEADLINE = 0.1


def head_section(records: Sequence[Record], data: tuple[Dataset, Dataset], stride: int) -> str:
    """What was trained on what, and how to read the tables."""
    train, test = data
    settings = records[0]["settings"]
    seeds = len({record["settings"]["seed"] for record in records})
    minutes = sum(record["seconds"] for record in records) / 60
    height, width = test.image_size
    return f"""# Ablation

{len(train)} training images with {len(train.xyxy)} objects, {len(test)} test images with \
{len(test.xyxy)}; every picture stretched to {width}×{height} pixels, patches of {stride} pixels \
({height // stride * (width // stride)} an image). Seeds: {seeds}; epochs: {settings["epochs"]}, \
in batches of {settings["batch_size"]}; learning rate: {settings["learning_rate"]}.

{len(records)} runs took {minutes:.0f} minutes of training in all, each in a process with one \
thread ({settings["device"]}; {platform.machine()}, {os.cpu_count()} CPU cores, \
torch {torch.__version__}). Means over seeds ± standard deviation, in percent. Differences to \
`{BASELINE}` are in points, bold where the 95 % interval excludes 0; with this many of them, some \
will by chance. One seed has no intervals.

Sizes are in pixels after stretching. All variants are trained with the same learning rate and the \
same limit on gradients, so part of what a loss seems to be worth is how well it goes with these."""


def recall_section(comparison: Comparison, prior: ObjectMeasures) -> str:
    """The tables of recall in Markdown.

    Args:
        comparison: of the predictors.
        prior: as of `training_prior`.
    """
    everything = comparison.groups["all"]
    ratios = [f"{100 * ratio:g} %" for ratio in KEEP_RATIOS]
    rows = [
        [
            result.name,
            *(percent_with_spread(comparison.recall(result, "all", k)) for k in KEEP_RATIOS),
            percent_with_spread(comparison.area(result, "all")),
            percent_with_spread(comparison.vanished(result, "all", HEADLINE)),
            percent_with_spread(
                np.array([record["results"]["calibration_error"] for record in result.records])
            ),
        ]
        for result in comparison.results
    ]
    blind = prior.recall[:, everything]
    rows += [
        [
            "*no picture: where objects were in training*",
            *map(percent, blind.mean((0, 1))),
            percent(float(prior.area[:, everything].mean())),
            percent(float((blind[..., KEEP_RATIOS.index(HEADLINE)] == 0).mean())),
            "–",
        ],
        ["*chance*", *map(percent, KEEP_RATIOS), percent(0.5), "–", "–"],
    ]
    headline = f"{100 * HEADLINE:g} %"
    by_ratio = [
        [
            result.name,
            *(points(comparison.recall_difference(result, "all", k)) for k in KEEP_RATIOS),
            points(comparison.area_difference(result, "all")),
        ]
        for result in comparison.others
    ]
    classes = {literal(name): class_group(name) for name in comparison.test.class_names}
    return f"""## Object recall

The share of an object's patches among the kept ones, averaged over objects, when this share of an \
image's patches is kept; the area under that curve; objects without any kept patch at {headline}; \
the expected calibration error of sigmoid(score) as the chance of a patch to be on an object. An \
object's patches are those whose centre is in its box, context is not among them: a target with \
less context is nearer to what is measured here. Whether context helps a detector is what AP \
tells. Of a predictor of several levels all patches compete, and those of the level count that \
FCOS assigns the object to by its longer side (up to 64, up to 128 pixels, above).

{markdown(["variant", *ratios, "area", f"vanished at {headline}", "calibration error"], rows)}

Differences to `{BASELINE}`, of the same seeds on the same images. Half the width of an interval, \
here, below and in the plots, is Student's t (one degree of freedom less than seeds) times the \
root of two added variances: of the mean over seeds, and of the mean over images, from a bootstrap \
of {REPLICATES} draws of images with all their objects. With few seeds that is rather too wide \
than too narrow. Groups of fewer than {LEAST_OBJECTS} objects or {LEAST_IMAGES} images have no \
intervals; the tables below give nothing but their number.

{markdown(["variant", *ratios, "area"], by_ratio)}
{_changes(comparison)}
![Recall against keep ratio, by size](recall.png)

![Differences of recall](differences.png)

### Recall at {headline} by size

{_by_group(comparison, {name: name for name in SIZES})}

### Recall at {headline} by shape

Taller or wider than 1.5 : 1, or neither.

{_by_group(comparison, {name: name for name in SHAPES})}

### Recall at {headline} by class

{_by_group(comparison, classes)}"""


def _changes(comparison: Comparison) -> str:
    """Variants beside those that they change in one respect, if there are any."""
    if not comparison.changed:
        return ""
    sizes = [size for size in SIZES if comparison.enough(size)]
    rows = [
        [
            result.name,
            base.name,
            *(points(comparison.recall_difference(result, "all", k, base)) for k in KEEP_RATIOS),
            *(points(comparison.recall_difference(result, s, HEADLINE, base)) for s in sizes),
        ]
        for result, base in comparison.changed
    ]
    headline = f"{100 * HEADLINE:g} %"
    head = [f"{100 * ratio:g} %" for ratio in KEEP_RATIOS]
    head += [f"{size}, {headline}" for size in sizes]
    return f"""
Differences to the variant that one thing was changed of, likewise:

{markdown(["variant", "beside", *head], rows)}
"""


def _by_group(comparison: Comparison, titles: dict[str, str]) -> str:
    """The baseline's recall and the others' differences to it, by the groups under the titles."""
    there = {title: name for title, name in titles.items() if comparison.num_objects(name)}
    rows = [
        ["objects", *(str(comparison.num_objects(name)) for name in there.values())],
        ["images with them", *(str(comparison.num_images(name)) for name in there.values())],
    ]
    for result in comparison.results:
        cells = [
            _group_cell(comparison, result, name) if comparison.enough(name) else "–"
            for name in there.values()
        ]
        rows.append([result.name, *cells])
    return markdown(["variant", *there], rows)


def _group_cell(comparison: Comparison, result: VariantResult, name: str) -> str:
    if result is comparison.baseline:
        return percent_with_spread(comparison.recall(result, name, HEADLINE))
    return points(comparison.recall_difference(result, name, HEADLINE))


def recall_summary(comparison: Comparison) -> list[list[str]]:
    """A table's head and rows: recall at the headline's ratio and its difference."""
    rows = [["variant", f"recall at {100 * HEADLINE:g} %", "difference"]]
    for result in comparison.results:
        recall = percent_with_spread(comparison.recall(result, "all", HEADLINE))
        difference = points(comparison.recall_difference(result, "all", HEADLINE))
        rows.append([result.name, recall, "" if result is comparison.baseline else difference])
    return rows


def ap_summary(detectors: dict[str, list[Record]]) -> list[list[str]]:
    """A table's head and rows: AP at the smallest keep ratio and its difference."""
    keep = min(DETECTOR_KEEP_RATIOS)
    rows = [["variant", f"AP at {100 * keep:g} %", "difference"]]
    for name, mine in detectors.items():
        difference = points(ap_difference(mine, detectors[BASELINE], keep, "AP"))
        ap = percent_with_spread(ap_values(mine, keep, "AP"))
        rows.append([name, ap, "" if name == BASELINE else difference])
    return rows


def ap_section(detectors: dict[str, list[Record]]) -> str:
    """The tables of AP, by the names of variants."""
    tables = "\n\n".join(_ap_table(detectors, name) for name in AP_NAMES)
    return f"""## AP of a pruned detector

A head on the kept patches alone, trained jointly with the CASS loss as auxiliary (weight 0.05), \
when this share of the patches is kept. The features of the kept patches were computed by the \
trunk from the whole picture, so they know of what was pruned: AP understates what pruning loses. \
Differences to `{BASELINE}`: Student's t over seeds alone; with other test images they might be \
others.

{tables}

![Differences of AP](ap.png)"""


def _ap_table(detectors: dict[str, list[Record]], name: str) -> str:
    rows = []
    for variant, records in detectors.items():
        row = [variant]
        row += [percent_with_spread(ap_values(records, k, name)) for k in DETECTOR_KEEP_RATIOS]
        row += [
            ""
            if variant == BASELINE
            else points(ap_difference(records, detectors[BASELINE], k, name))
            for k in DETECTOR_KEEP_RATIOS
        ]
        rows.append(row)
    ratios = [f"{100 * keep:g} %" for keep in DETECTOR_KEEP_RATIOS]
    return f"### {name}\n\n" + markdown(
        ["variant", *ratios, *(f"difference at {ratio}" for ratio in ratios)], rows
    )


def targets_section(variants: Sequence[Variant], train: Dataset, stride: int) -> str:
    """What the variants change in the training data's target, and what its boxes are like."""
    # Of several variants with one target, the first one's name. Ranges only choose a level.
    names = {_on_one_level(variant.mask): variant.name for variant in reversed(variants)}
    baseline = next(variant.mask for variant in variants if variant.name == BASELINE)
    change_rows = []
    for mask in dict.fromkeys(_on_one_level(variant.mask) for variant in variants):
        if mask != baseline:
            change = target_change(train, stride, baseline, mask)
            shares = [percent(change.changed[group]) for group in ("all", *SIZES)]
            mean = f"{change.mean_change:.3f}"
            change_rows.append([names[mask], *shares, mean, percent(change.mass)])
    fact_rows = [
        [name, str(objects), *map(percent, shares)]
        for name, (objects, shares) in box_facts(train, stride, baseline).items()
    ]
    return f"""## What changes in the target itself

Percent of the patches with a value in either target that differ from `{BASELINE}`'s by more than \
1/255, by the size of the object that gives the value; the mean change of those; the sum of the \
target in percent of the baseline's. Variants with a target that another one has are left out.

{markdown(["target", "all", *SIZES, "mean change", "sum"], change_rows)}

Of the training boxes, in percent: those that the border cuts once they are grown to the least \
size, those that reach to it, those wholly outside (sub-pixel anchoring concerns no others: what \
the border cuts off a box lies where no patch is), those whose band of context is narrower than a \
patch on every side, and those with no patch of context at all.

{markdown(["size", "boxes", *FACTS], fact_rows)}"""


def _on_one_level(mask: MaskSpec) -> MaskSpec:
    return mask.replace(level_ranges=None)
