"""Markdown tables of shares, in percent or points."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from cass_lab.measures.statistics import Interval, mean_and_spread


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table: the first column to the left, the others to the right.

    Example:
        >>> print(markdown(["a", "b"], [["x", "1"]]))
        | a | b |
        |---|---:|
        | x | 1 |
    """
    lines = [head, *rows]
    body = ["| " + " | ".join(line) + " |" for line in lines]
    body.insert(1, "|---" + "|---:" * (len(head) - 1) + "|")
    return "\n".join(body)


def literal(text: str) -> str:
    """A name as it is, whatever of it Markdown would take for markup.

    Example:
        >>> print(literal("cone|barrel"), literal("a*b*"), literal("traffic_light"))
        cone\\|barrel a\\*b\\* traffic_light
    """
    return re.sub(r"[\\`*\[\]<>|~$&#!:]|\b_|_\b", r"\\\g<0>", " ".join(text.split()))


def percent(share: float) -> str:
    """A share in percent.

    Example:
        >>> percent(0.1234), percent(float("nan"))
        ('12.3', '–')
    """
    return "–" if math.isnan(share) else f"{100 * share:.1f}"


def percent_with_spread(shares: npt.NDArray[np.float64]) -> str:
    """Mean and standard deviation over seeds, in percent.

    Example:
        >>> percent_with_spread(np.array([0.1, 0.2, 0.3])), percent_with_spread(np.array([0.1]))
        ('20.0 ± 10.0', '10.0')
    """
    mean, spread = mean_and_spread(shares)
    return percent(mean) + ("" if math.isnan(spread) else f" ± {percent(spread)}")


def points(interval: Interval) -> str:
    """A difference in points with its interval, if that is finite, bold where it excludes 0.

    "–" where there is nothing to compare.

    Example:
        >>> points(Interval(0.012, 0.004, 0.02)), points(Interval(0.001, -0.02, 0.03))
        ('**+1.2** [+0.4, +2.0]', '+0.1 [-2.0, +3.0]')
        >>> points(Interval(0.012, -math.inf, math.inf)), points(Interval(*[math.nan] * 3))
        ('+1.2', '–')
    """
    if math.isnan(interval.difference):
        return "–"
    difference, low, high = (f"{100 * value:+.1f}" for value in interval)
    if not math.isfinite(interval.low):
        return difference
    decided = interval.low > 0 or interval.high < 0
    return f"**{difference}** [{low}, {high}]" if decided else f"{difference} [{low}, {high}]"
