"""Tuning by Optuna: a grid or a random sample of options, measured like the variants."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import sqlite3
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import sqlalchemy
from optuna.trial import Trial, TrialState

from cass_cli.options import parse_value, require_known
from cass_core.errors import CassError, InvalidRequest
from cass_core.specs import LossSpec, MaskSpec, WeightSpec
from cass_lab.reports.tables import markdown, percent_with_spread
from cass_lab.training.runs import Record
from cass_lab.training.variants import Variant

Space = dict[str, list[Any]]

DATABASE = "tune.db"

# The audit's.
AUDIT_SPACE = ("small_target_gain=1.2,1.5,2.0", "alpha=1.5,2.0,2.5", "beta=3,4,5")

# A patch is one cell of one level, and a training step takes the mean.
_FIXED = {"patch_size", "level_ranges", "reduction"}
_MASK_FIELDS = {field.name for field in dataclasses.fields(MaskSpec)} - _FIXED
_LOSS_FIELDS = {field.name for field in dataclasses.fields(LossSpec)} - _FIXED
_WEIGHT_FIELDS = {field.name for field in dataclasses.fields(WeightSpec)}
_FIELDS = _MASK_FIELDS | _LOSS_FIELDS | _WEIGHT_FIELDS


def parse_space(choices: Sequence[str]) -> Space:
    """``NAME=V1,V2``: an option of a mask, loss or weight spec, values as JSON or plain text.

    Returns:
        The values of each option, each value once.

    Raises:
        InvalidRequest: there is no such option, it is given twice, or values cannot be trained
            with, alone or together.

    Example:
        >>> parse_space(["alpha=1.5,2", "kind=bce,focal"])
        {'alpha': [1.5, 2], 'kind': ['bce', 'focal']}
    """
    space: Space = {}
    for choice in choices:
        name, _, text = choice.partition("=")
        require_known("--choice", name, sorted(_FIELDS), choice)
        if name in space:
            raise InvalidRequest("--choice", f"{name} is given twice")
        space[name] = []
        for value in _values(text):
            if value not in space[name]:
                space[name].append(value)
        if name == "merge" and "sum" in space[name]:
            raise InvalidRequest("--choice", "merge=sum exceeds 1, which no loss takes as a target")
    # No spec's options depend on another's, so none has to go through the others'.
    for fields in (_MASK_FIELDS, _LOSS_FIELDS, _WEIGHT_FIELDS):
        for options in combinations({name: space[name] for name in space if name in fields}):
            variant_of(options)
    if "object" in space.get("balance", ()) and set(space.get("merge", ())) - {"max"}:
        raise InvalidRequest(
            "--choice", "balance=object needs merge=max, which says whose a patch is"
        )
    return space


def _values(text: str) -> list[Any]:
    try:
        values: list[Any] = json.loads(f"[{text}]")  # some are lists themselves
    except ValueError:
        return [parse_value(part) for part in text.split(",")]
    return values


def combinations(space: Space) -> list[dict[str, Any]]:
    """The whole grid.

    Example:
        >>> combinations({"alpha": [1.5, 2], "beta": [3]})
        [{'alpha': 1.5, 'beta': 3}, {'alpha': 2, 'beta': 3}]
    """
    return [dict(zip(space, v, strict=True)) for v in itertools.product(*space.values())]


def variant_of(options: dict[str, Any]) -> Variant:
    """The improved preset with these options."""
    mask = {name: value for name, value in options.items() if name in _MASK_FIELDS}
    loss = {name: value for name, value in options.items() if name in _LOSS_FIELDS}
    weights = {name: value for name, value in options.items() if name in _WEIGHT_FIELDS}
    return Variant(
        ", ".join(f"{name}={value}" for name, value in options.items()),
        MaskSpec.improved().replace(**mask),
        LossSpec.improved().replace(**loss),
        WeightSpec(**weights),
    )


@contextmanager
def database_errors(out: Path) -> Iterator[None]:
    """Raises a `CassError` with the path for what the study's database cannot do."""
    try:
        yield
    except (sqlalchemy.exc.DatabaseError, optuna.exceptions.StorageInternalError) as error:
        reason = str(error.__cause__ or error).partition("\n")[0]
        raise CassError(f"{out / DATABASE}: {reason}") from error


def open_study(
    out: Path, space: Space, random_trials: int | None, basis: Sequence[str]
) -> optuna.Study:
    """The study of this space in ``OUT/tune.db``, as far as it has come.

    Args:
        out: an existing folder.
        space: the values to choose from.
        random_trials: how many random combinations it shall have in all; None for the whole grid.
        basis: what the result of a trial depends on beside its options: the keys of the runs
            without any of them. Another basis is another study.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    # Of values that are lists, which the database keeps all the same.
    warnings.filterwarnings("ignore", message="Choices for a categorical distribution")
    kind = "grid" if random_trials is None else "random"
    determined_by = json.dumps([space, list(basis)])
    # Not by a URL, in which a folder's ? and % would mean something.
    storage = optuna.storages.RDBStorage(
        "sqlite://",
        engine_kwargs={
            "creator": lambda: sqlite3.connect(out / DATABASE),
            "poolclass": sqlalchemy.NullPool,
        },
    )
    study = optuna.create_study(
        storage=storage,
        study_name=f"{kind} {hashlib.sha256(determined_by.encode()).hexdigest()[:16]}",
        direction="maximize",
        load_if_exists=True,
    )
    # Another seed for each trial already there, or a study that goes on would repeat itself.
    study.sampler = optuna.samplers.RandomSampler(seed=len(study.get_trials(deepcopy=False)))
    if random_trials is None:
        # Optuna's GridSampler ends a study from within `optimize` alone, which runs one at a time.
        for options in combinations(space):
            study.enqueue_trial(options, skip_if_exists=True)
    return study


def sweep(
    study: optuna.Study,
    space: Space,
    trials: int,
    measure: Callable[[Sequence[Variant]], list[list[Record]]],
) -> None:
    """Bring the study to a number of trials.

    The value of a trial is the area under the recall–keep curve of all objects, the mean over
    seeds.

    Args:
        study: as of `open_study`; trials that were cut off are carried out first.
        space: its values to choose from.
        trials: how many it shall have in all.
        measure: the records of each variant, one a seed; called once, with all that are missing.
    """
    pending = [
        Trial(study, trial._trial_id)  # what a killed process requested
        for trial in study.get_trials(deepcopy=False, states=[TrialState.RUNNING])
    ]
    done = len(study.get_trials(deepcopy=False, states=[TrialState.COMPLETE]))
    pending += [study.ask() for _ in range(trials - done - len(pending))]
    variants = [
        variant_of({name: trial.suggest_categorical(name, v) for name, v in space.items()})
        for trial in pending
    ]
    for trial, records in zip(pending, measure(variants), strict=True):
        areas = [record["results"]["groups"]["all"]["area"] for record in records]
        trial.set_user_attr("areas", areas)
        study.tell(trial, float(np.mean(areas)))


def table(study: optuna.Study, space: Space) -> str:
    """All trials, the best first."""
    done = study.get_trials(deepcopy=False, states=[TrialState.COMPLETE])
    done.sort(key=lambda trial: -(trial.value or 0.0))
    return markdown(
        [*space, "area, %"],
        [
            [
                *(str(trial.params[name]) for name in space),
                percent_with_spread(np.array(trial.user_attrs["areas"])),
            ]
            for trial in done
        ],
    )
