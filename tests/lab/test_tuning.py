"""The sweep: every combination once, also after a kill."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from cass_core import CassError, InvalidRequest, MaskSpec
from cass_lab.training.variants import Variant
from cass_lab.tuning import (
    AUDIT_SPACE,
    combinations,
    database_errors,
    open_study,
    parse_space,
    sweep,
    variant_of,
)

SPACE = {"alpha": [1.0, 2.0], "small_target_gain": [1.2, 1.5, 2.0]}


BASIS = ("a key",)


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
        sweep(open_study(tmp_path, SPACE, None, BASIS), SPACE, 6, first)
    study = open_study(tmp_path, SPACE, None, BASIS)
    sweep(study, SPACE, len(combinations(SPACE)), second)
    sweep(study, SPACE, 6, Measured(killed_after=0))
    assert sorted(second.seen) == list(itertools.product(*SPACE.values()))
    assert study.best_params == {"alpha": 2.0, "small_target_gain": 2.0}
    assert study.best_value == pytest.approx(4.0)


def test_random_trials_go_on_with_others(tmp_path: Path) -> None:
    space = {"alpha": [float(i) for i in range(1000)]}
    first, second = Measured(), Measured()
    sweep(open_study(tmp_path, space, 4, BASIS), space, 4, first)
    sweep(open_study(tmp_path, space, 6, BASIS), space, 6, second)
    assert len(first.seen) == 4
    assert len(second.seen) == 2
    assert len(set(first.seen + second.seen)) == 6


def test_folders_of_any_name(tmp_path: Path) -> None:
    """A database's URL would take them apart."""
    folder = tmp_path / "a?b%20c#d"
    folder.mkdir()
    for _ in range(2):
        sweep(open_study(folder, SPACE, None, BASIS), SPACE, 6, Measured())
    assert [path.name for path in folder.iterdir()] == ["tune.db"]
    assert [path.name for path in tmp_path.iterdir()] == [folder.name]


def test_a_broken_database_is_named(tmp_path: Path) -> None:
    (tmp_path / "tune.db").write_bytes(b"no database" * 1000)
    named = pytest.raises(CassError, match=r"tune\.db: file is not a database$")
    with named, database_errors(tmp_path):
        open_study(tmp_path, SPACE, None, BASIS)


def test_another_basis_is_another_study(tmp_path: Path) -> None:
    first, second = Measured(), Measured()
    sweep(open_study(tmp_path, SPACE, None, BASIS), SPACE, 6, first)
    sweep(open_study(tmp_path, SPACE, None, (*BASIS, "of another seed")), SPACE, 6, second)
    assert len(first.seen) == len(second.seen) == 6


@pytest.mark.slow
def test_values_of_every_kind(tmp_path: Path) -> None:
    space = parse_space(
        ["base_sigma=0.5,[0.4,0.6]", "use_subpixel_offset=True,false", "decay_type=linear,gaussian"]
    )
    assert list(space.values()) == [[0.5, [0.4, 0.6]], [True, False], ["linear", "gaussian"]]
    assert variant_of(combinations(space)[-1]).mask.base_sigma == (0.4, 0.6)
    measured = Measured()
    for _ in range(2):  # the second time from the database
        study = open_study(tmp_path, space, None, BASIS)
        sweep(study, space, 8, measured)
    assert len(measured.seen) == 8
    kept = [trial.params for trial in study.get_trials()]
    assert sorted(map(str, kept)) == sorted(map(str, combinations(space)))


def test_values_count_once() -> None:
    assert parse_space(["alpha=2,1.5,2.0,2", "kind=bce"]) == {"alpha": [2, 1.5], "kind": ["bce"]}


@pytest.mark.parametrize(
    ("choices", "words"),
    [
        (["reduction=sum"], "--choice: 'reduction' is not known"),
        (["merge=max,sum"], "--choice: merge=sum exceeds 1"),
        (["alpha=1", "beta=3", "alpha=2"], "--choice: alpha is given twice"),
        # Each is fine alone, with the other's default of 0.5 and 2.
        (["size_factor_min=0.5,1.5", "size_factor_max=1,2"], "mask_spec.size_factor_max: "),
    ],
)
def test_choices_that_cannot_be_trained(choices: list[str], words: str) -> None:
    with pytest.raises(InvalidRequest, match=f"^{re.escape(words)}"):
        parse_space(choices)


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
