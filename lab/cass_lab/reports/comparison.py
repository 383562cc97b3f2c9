"""The records of runs, by variant and beside the baseline's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cass_core.errors import InvalidRequest
from cass_lab.data.dataset import Dataset
from cass_lab.data.objects import groups
from cass_lab.measures.keeping import KEEP_RATIOS
from cass_lab.measures.statistics import Interval, object_difference, seed_difference
from cass_lab.training.runs import Record, Store
from cass_lab.training.variants import BASELINE

# Variants are not compared on smaller groups: their differences are chance.
LEAST_OBJECTS = 20
LEAST_IMAGES = 10


@dataclass(frozen=True, slots=True)
class VariantResult:
    """The predictors of a variant, one a seed.

    Attributes:
        name: of the variant.
        records: by seed.
        recall: ``[S, M, K]`` by seed, test object, and keep ratio of `KEEP_RATIOS`.
        area: ``[S, M]`` by seed and test object.
    """

    name: str
    records: list[Record]
    recall: npt.NDArray[np.float32]
    area: npt.NDArray[np.float32]


class Comparison:
    """Predictors on the same test images.

    Args:
        records: of runs that measured recall.
        test: what they were measured on.
        store: has their values by object.
        changes: of each variant, the one that it changes in one respect.

    Raises:
        InvalidRequest: the baseline is missing, or a variant has other seeds than it.
    """

    def __init__(
        self,
        records: Sequence[Record],
        test: Dataset,
        store: Store,
        changes: Mapping[str, str],
    ) -> None:
        self.test = test
        self.results = [
            VariantResult(
                name,
                mine,
                np.stack([store.load_objects(record["key"]).recall for record in mine]),
                np.stack([store.load_objects(record["key"]).area for record in mine]),
            )
            for name, mine in by_variant(records).items()
        ]
        by_name = {result.name: result for result in self.results}
        self.baseline = by_name[BASELINE]
        self.changed = [
            (result, by_name[changes[result.name]])
            for result in self.results
            if changes[result.name] in by_name and changes[result.name] != BASELINE
        ]
        self.groups = {
            name: members & ~np.isnan(self.baseline.area[0])
            for name, members in groups(test.xyxy, test.labels, test.class_names)
        }

    @property
    def others(self) -> list[VariantResult]:
        """All but the baseline."""
        return [result for result in self.results if result is not self.baseline]

    def num_objects(self, group: str) -> int:
        """Objects of a group that have any patch."""
        return int(self.groups[group].sum()) if group in self.groups else 0

    def num_images(self, group: str) -> int:
        """Test images that show any of them."""
        if group not in self.groups:
            return 0
        return len(np.unique(self.test.image_of()[self.groups[group]]))

    def enough(self, group: str) -> bool:
        """Whether the group has objects and images enough to compare variants on."""
        return self.num_objects(group) >= LEAST_OBJECTS and self.num_images(group) >= LEAST_IMAGES

    def recall(self, result: VariantResult, group: str, ratio: float) -> npt.NDArray[np.float64]:
        """Mean recall of a group's objects, ``[S]``."""
        return _row_means(self._of(result, group, ratio))

    def vanished(self, result: VariantResult, group: str, ratio: float) -> npt.NDArray[np.float64]:
        """Share of a group's objects without any kept patch, ``[S]``."""
        return _row_means(self._of(result, group, ratio) == 0)

    def area(self, result: VariantResult, group: str) -> npt.NDArray[np.float64]:
        """Mean area under the curves of a group's objects, ``[S]``."""
        return _row_means(result.area[:, self.groups[group]])

    def recall_difference(
        self, result: VariantResult, group: str, ratio: float, base: VariantResult | None = None
    ) -> Interval:
        """To the base, by default the baseline; infinite for a group that is not `enough`."""
        base = base or self.baseline
        return self._difference(self._of(result, group, ratio), self._of(base, group, ratio), group)

    def area_difference(self, result: VariantResult, group: str) -> Interval:
        """To the baseline, with its interval; infinite for a group that is not `enough`."""
        members = self.groups[group]
        return self._difference(result.area[:, members], self.baseline.area[:, members], group)

    def _of(self, result: VariantResult, group: str, ratio: float) -> npt.NDArray[np.float32]:
        return result.recall[:, self.groups[group], KEEP_RATIOS.index(ratio)]

    def _difference(
        self, values: npt.NDArray[np.float32], baseline: npt.NDArray[np.float32], group: str
    ) -> Interval:
        image_of = self.test.image_of()[self.groups[group]]
        interval = object_difference(values, baseline, image_of, len(self.test))
        if self.enough(group):
            return interval
        return Interval(interval.difference, -np.inf, np.inf)


def _row_means(values: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    means: npt.NDArray[np.float64] = values.mean(1, dtype=np.float64)
    return means


def by_variant(records: Sequence[Record]) -> dict[str, list[Record]]:
    """The records of each variant by seed.

    Raises:
        InvalidRequest: the baseline is missing, or a variant has other seeds than it.
    """
    found: dict[str, list[Record]] = {}
    for record in records:
        found.setdefault(record["variant"], []).append(record)
    for mine in found.values():
        mine.sort(key=lambda record: int(record["settings"]["seed"]))
    seeds = [record["settings"]["seed"] for record in found.get(BASELINE, ())]
    for name, mine in found.items():
        if [record["settings"]["seed"] for record in mine] != seeds:
            raise InvalidRequest("--variant", f"{name} needs {BASELINE} with the same seeds")
    return found


def ap_values(records: Sequence[Record], keep: float, name: str) -> npt.NDArray[np.float64]:
    """An AP of one variant's detectors, by seed."""
    values = [record["results"]["ap"][str(keep)][name] for record in records]
    return np.array(values, np.float64)  # None becomes NaN: no object is in the group


def ap_difference(
    records: Sequence[Record], baseline: Sequence[Record], keep: float, name: str
) -> Interval:
    """An AP beside the baseline's; over seeds, for AP is no mean over objects."""
    return seed_difference(ap_values(records, keep, name), ap_values(baseline, keep, name))
