"""What a call for a batch's masks costs a replica, its caller and the wire, for `fleet_model`."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Curve:
    """Values at points that rise: between them on lines, beyond them those of the last."""

    points: tuple[float, ...]
    values: tuple[float, ...]

    def __call__(self, x: float) -> float:
        """The value at a point."""
        right = bisect_left(self.points, x)
        if right == 0:
            return self.values[0]
        if right == len(self.points):
            return self.values[-1]
        before, after = self.points[right - 1], self.points[right]
        low, high = self.values[right - 1], self.values[right]
        return low + (high - low) * (x - before) / (after - before)

    def times(self, factor: float) -> Curve:
        """The same with all values so many times as large."""
        return Curve(self.points, tuple(factor * value for value in self.values))


@dataclass(frozen=True, slots=True)
class Service:
    """What a call for one batch's masks costs.

    Attributes:
        rested: seconds of a replica's core, by the seconds that it was idle before.
        crowded: the same without a pause before, by the number of requests under way there.
        client: seconds of a loader's core, by the seconds that it was idle before.
        overlap: share of the replica's seconds that the answer does not wait for.
        spread: what calls took by their mean, one after the other as they were measured: a slow
            phase of the machine stays one.
        stages: parts of a replica's work on a request, between which other requests have their
            turn: the event loop takes in a call, reads its message, computes and sends.
        request_bytes: on the wire.
        answer_bytes: on the wire.
    """

    rested: Curve
    crowded: Curve
    client: Curve
    overlap: float
    spread: Sequence[float]
    request_bytes: int
    answer_bytes: int
    stages: int = 4

    def times(self, factor: float) -> Service:
        """What calls cost on a machine that takes so many times as long."""
        return replace(
            self,
            rested=self.rested.times(factor),
            crowded=self.crowded.times(factor),
            client=self.client.times(factor),
        )
