"""What targets change, on boxes where it can be counted by hand."""

from __future__ import annotations

import pytest

from cass_core import MaskSpec
from cass_lab.data.dataset import Dataset
from cass_lab.data.targets import FACTS, box_facts, target_change
from tests.lab.support.drawn import boxes_alone

BASELINE = MaskSpec.baseline().replace(patch_size=1)


def dataset(*boxes: tuple[float, ...]) -> Dataset:
    return boxes_alone([boxes], (64, 64))


def test_the_same_target_changes_nothing() -> None:
    change = target_change(dataset((8, 8, 40, 40)), 8, BASELINE, BASELINE)
    assert change.changed["all"] == 0
    assert change.changed["< 16 px"] != change.changed["< 16 px"]  # NaN: no such object
    assert change.mass == 1


def test_a_wider_band_changes_the_ring() -> None:
    # 2 x 2 patches, a band of 0.6 of a patch reaches the 12 around; without a band there are 4.
    change = target_change(
        dataset((16, 16, 32, 32)), 8, BASELINE, BASELINE.replace(expansion_ratio=0)
    )
    assert change.changed["all"] == pytest.approx(12 / 16)
    assert change.changed["16–32 px"] == pytest.approx(12 / 16)


def test_subpixel_changes_boxes_outside_alone() -> None:
    # What the border cuts off a box lies where no patch is: towards all patches the clipped box and
    # the whole one end at the same side. Only a box beyond the border, of which nothing is left
    # but its context, is farther away than the border is.
    subpixel = BASELINE.replace(use_subpixel_offset=True)
    overlapping = dataset((8, 8, 56, 56), (-80, 8, 17, 40), (50, 50, 90, 70))
    assert target_change(overlapping, 8, BASELINE, subpixel).changed["all"] == 0
    outside = dataset((-40, 8, -2, 40))
    assert target_change(outside, 8, BASELINE, subpixel).changed["all"] == 1


def test_sums_count_for_the_baselines_owner() -> None:
    # Neighbours whose bands overlap: the sum differs there alone.
    boxes = dataset((8, 16, 24, 32), (32, 16, 48, 32))
    change = target_change(boxes, 8, BASELINE, BASELINE.replace(merge="clipped_sum"))
    # Columns 1-2 and 4-5 are cores; both bands reach column 3, in rows 1 to 4: 4 of 7 x 4 patches.
    assert change.changed["all"] == pytest.approx(4 / 28)
    assert change.mass > 1


def test_box_facts() -> None:
    facts = box_facts(
        dataset((16, 16, 24, 24), (0, 8, 56, 64), (60, 20, 64, 60), (-8, 0, 32, 32)), 8, BASELINE
    )
    assert facts["all"][0] == 4
    shares = dict(zip(FACTS, facts["all"][1], strict=True))
    assert shares["at the border"] == 0.75
    # The third, grown to a patch across, and the last.
    assert shares["cut"] == 0.5
    assert shares["outside"] == 0
    # 0.3 of 1 patch; of 7; of 1 and 5; of 5 and 4.
    assert shares["thin band"] == 0.25
    assert facts["< 16 px"][1][FACTS.index("no context")] == pytest.approx(0.5)
