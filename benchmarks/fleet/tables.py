"""The tables of docs/scaling.md, from what `benchmarks.fleet` has measured and simulated."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

# What a foretold number may differ by from a measured one.
BOUND = 0.15


def markdown(results: Mapping[str, Any]) -> str:
    """All tables, each below a line that says what it is."""
    plans = results["plans"]
    return "\n\n".join(
        (
            "What a call costs",
            _table(
                ("",), ("core, crowded", "after 1 ms", "after 10 ms", "caller"), _costs(results)
            ),
            "Measured and foretold",
            _table(("masks", "loaders", "pause"), _CHECK_COLUMNS, _checks(results)),
            _kept(results),
            "A lost replica, really and foretold",
            _table(("",), ("calls hit", "failed", "median", "longest"), _real_loss(results)),
            "Replicas",
            _table(("masks", "pause"), ("loaders", *_FIGURES), _replicas(plans["replicas"])),
            "Wires",
            _table(
                ("masks",), ("kB", "1 Gbit/s", "10 Gbit/s", "25 Gbit/s"), _wires(plans["wires"])
            ),
            "Losses",
            _table(("loaders", "replicas", "lost"), _LOSS_COLUMNS, _losses(plans["losses"])),
            "Locally",
            _table(("masks",), ("local, CPU ms", "remote, CPU ms"), _calls(results["calls"])),
            _table(("worker",), ("MB", "CPU s to the first batch"), _workers(results["workers"])),
        )
    )


_CHECK_COLUMNS = ("server used", "requests/s", "model", "", "p99, ms", "model", "", "within 15 %")
_FIGURES = ("replicas", "used", "p50, ms", "p99, ms", "Gbit/s of all")
_LOSS_COLUMNS = ("calls hit", "failed", "p99 before, ms", "p99 without, ms", "longest", "settled")


def _table(names: Sequence[str], numbers: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    head = [*names, *numbers]
    rule = ["---"] * len(names) + ["---:"] * len(numbers)
    return "\n".join(f"| {' | '.join(map(str, row))} |" for row in (head, rule, *rows))


def _ms(seconds: float) -> str:
    value = seconds * 1e3
    return f"{value:.2f}" if value < 10 else f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def _costs(results: Mapping[str, Any]) -> Iterable[Sequence[object]]:
    for kind, service in results["services"].items():
        rested, crowded, client = service["rested"], service["crowded"], service["client"]
        yield (
            kind,
            " / ".join(_ms(value) for value in crowded[1]),
            _ms(rested[1][2]),
            _ms(rested[1][-1]),
            f"{_ms(client[1][0])} to {_ms(client[1][-1])}",
        )


def errors(check: Mapping[str, Any]) -> tuple[float, float]:
    """By how much the model's rate and p99 differ from the measured ones, as shares of these."""
    real, model = check["real"], check["model"]
    return model["rate"] / real["rate"] - 1, model["p99"] / real["p99"] - 1


def holds(check: Mapping[str, Any]) -> bool:
    """Whether both are within the bound."""
    return all(abs(error) <= BOUND for error in errors(check))


def _checks(results: Mapping[str, Any]) -> Iterable[Sequence[object]]:
    for kind, checks in results["checks"].items():
        for check in checks:
            if check["learned"]:
                continue
            rate, p99 = errors(check)
            yield (
                kind,
                check["loaders"],
                f"{check['think'] * 1e3:.0f} ms" if check["think"] else "none",
                f"{check['server_used']:.0%}",
                f"{check['real']['rate']:,.0f}",
                f"{check['model']['rate']:,.0f}",
                f"{rate:+.0%}",
                _ms(check["real"]["p99"]),
                _ms(check["model"]["p99"]),
                f"{p99:+.0%}",
                "yes" if holds(check) else "no",
            )


def _kept(results: Mapping[str, Any]) -> str:
    foretold = [c for checks in results["checks"].values() for c in checks if not c["learned"]]
    rates = sum(abs(errors(check)[0]) <= BOUND for check in foretold)
    slowest = sum(abs(errors(check)[1]) <= BOUND for check in foretold)
    halves = [check["p99_halves"] for check in foretold]
    itself = sum(abs(one / other - 1) <= BOUND for one, other in halves)
    return (
        f"Within 15 %: requests a second in {rates} of {len(foretold)}, p99 in {slowest},"
        f" both in {sum(map(holds, foretold))}. Of the measured p99s themselves {itself}"
        " are within 15 % when every second turn is held against the others."
    )


def _real_loss(results: Mapping[str, Any]) -> Iterable[Sequence[object]]:
    for name, loss in results["loss"].items():
        yield (
            {"real": "measured", "model": "model"}[name],
            f"{loss['hit']:.0f}",
            f"{loss['failed']:.0f}",
            f"{_ms(loss['median_seconds'])} ms",
            f"{_ms(loss['longest_seconds'])} ms",
        )


def _replicas(rows: Iterable[Mapping[str, Any]]) -> Iterable[Sequence[object]]:
    for row in rows:
        yield (
            row["kind"],
            f"{row['think']:g} s",
            f"{row['loaders']:,}",
            row["replicas"],
            f"{row['used']:.0%}",
            _ms(row["p50"]),
            _ms(row["p99"]),
            f"{row['wire_used'] * row['replicas'] * 25:,.1f}",
        )


def _wires(rows: Sequence[Mapping[str, Any]]) -> Iterable[Sequence[object]]:
    for kind in dict.fromkeys(row["kind"] for row in rows):
        of_kind = [row for row in rows if row["kind"] == kind]
        yield (
            kind,
            f"{of_kind[0]['answer_bytes'] / 1e3:,.0f}",
            *(f"{row['loaders']:,}" for row in of_kind),
        )


def _losses(rows: Iterable[Mapping[str, Any]]) -> Iterable[Sequence[object]]:
    # With and without one more replica than needed is the same where two are the least.
    return dict.fromkeys(
        (
            f"{row['loaders']:,}",
            row["replicas"],
            "silent" if row["silent"] else "killed",
            f"{row['hit']:,}",
            row["failed"],
            _ms(row["p99_before"]),
            _ms(row["p99_without"]),
            f"{row['longest']:.2f} s",
            f"{row['settled']:.0f} s",
        )
        for row in rows
    )


def _calls(calls: Mapping[str, Mapping[str, float]]) -> Iterable[Sequence[object]]:
    for kind, used in calls.items():
        yield kind, _ms(used["local"]), _ms(used["remote"])


def _workers(workers: Mapping[str, Mapping[str, float]]) -> Iterable[Sequence[object]]:
    for name, told in workers.items():
        yield name, f"{told['resident_bytes'] / 1e6:.0f}", f"{told['cpu_seconds']:.1f}"
