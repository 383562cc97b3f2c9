"""The sweep: every combination once, also after a kill."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from cass_core import MaskSpec
from cass_lab.tuning import AUDIT_SPACE, combinations, open_study, parse_space, sweep, variant_of
from cass_lab.variants import Variant

SPACE = {"alpha": [1.0, 2.0], "small_target_gain": [1.2, 1.5, 2.0]}


class Measured:
    """Stands for trainings, which have tests of their own: alpha + gain, twice."""

    def __init__(self, killed_after: int = 100) -> None:
        self.seen: list[tuple[float, float]] = []
        self.killed_after = killed_after

    def __call__(self, variants: Sequence[Variant]) -> list[list[dict[str, Any]]]:
        answers = []
        for variant in variants:
            pair = (variant.loss.alpha, variant.mask.small_target_gain)
            if len(self.seen) == self.killed_after:
                raise KeyboardInterrupt
            self.seen.append(pair)
            answers.append([{"results": {"groups": {"all": {"area": sum(pair)}}}}] * 2)
        return answers


def test_a_grid_has_every_combination_once(tmp_path: Path) -> None:
    first, second = Measured(killed_after=3), Measured()
    with pytest.raises(KeyboardInterrupt):
        sweep(open_study(tmp_path, SPACE, None), SPACE, 6, 2, first)
    study = open_study(tmp_path, SPACE, None)
    told: list[int] = []
    sweep(study, SPACE, combinations(SPACE), 2, second, told.append)
    assert told == [2]  # the first two; the third was cut off with the fourth
    assert sorted(first.seen[:2] + second.seen) == list(itertools.product(*SPACE.values()))
    assert study.best_params == {"alpha": 2.0, "small_target_gain": 2.0}
    assert study.best_value == pytest.approx(4.0)


def test_random_trials_go_on_with_others(tmp_path: Path) -> None:
    space = {"alpha": [float(i) for i in range(1000)]}
    first, second = Measured(), Measured()
    sweep(open_study(tmp_path, space, 4), space, 4, 2, first)
    sweep(open_study(tmp_path, space, 6), space, 6, 2, second)
    assert len(first.seen) == 4
    assert len(second.seen) == 2
    assert len(set(first.seen + second.seen)) == 6


def test_the_audits_space() -> None:
    space = parse_space(AUDIT_SPACE)
    assert space == {
        "small_target_gain": [1.2, 1.5, 2.0],
        "alpha": [1.5, 2.0, 2.5],
        "beta": [3, 4, 5],
    }
    variant = variant_of({"small_target_gain": 1.2, "beta": 3})
    assert variant.mask == MaskSpec(patch_size=1, small_target_gain=1.2)
    assert (variant.loss.alpha, variant.loss.beta) == (2.0, 3.0)
