"""Medians, ratios and bounds of `make bench-rpc`, and how they are shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from rich.table import Table

from benchmarks.rpc.servers import ASYNCIO, OURS, THREADS, TRITON, Sample

NARROW = "ours, uint8"
"""Our server asked for uint8, beside the others' float32."""


@dataclass(frozen=True, slots=True)
class SideBySide:
    """What all servers are asked for, one after another.

    Attributes:
        stride: of the masks, as `MAPS` has it.
        keeps_memory: whether the clients' allocator keeps what it frees.
        streamed: over a stream; else unary calls.
        in_flight: callers, or requests of a stream.
    """

    stride: str
    keeps_memory: bool
    streamed: bool
    in_flight: int

    def __str__(self) -> str:
        memory = "kept" if self.keeps_memory else "default"
        way = f"stream, {self.in_flight} in flight" if self.streamed else f"unary, {self.callers}"
        return f"{self.stride}, {memory} memory, {way}"

    @property
    def callers(self) -> str:
        """Their number, in words."""
        return "1 caller" if self.in_flight == 1 else f"{self.in_flight} callers"

    def contenders(self, servers: Sequence[str]) -> list[str]:
        """Those who take turns."""
        return [*servers, NARROW] if self.streamed else list(servers)


@dataclass(frozen=True, slots=True)
class Ratio:
    """A figure of ours to another's.

    Attributes:
        of: `rate`, `client` or `p50`, as `Sample` has them.
        ours: `OURS` or `NARROW`.
        other: another contender.
        bound: what it has to reach, or for times at most to be; None if it is for information.
    """

    of: str
    ours: str
    other: str
    bound: float | None

    def __str__(self) -> str:
        return f"{self.of}: {self.ours} / {self.other}"

    def holds(self, value: float) -> bool:
        """Whether the bound is kept."""
        if self.bound is None:
            return True
        return value >= self.bound if self.of == "rate" else value <= self.bound


def ratios_of(case: SideBySide, contenders: Sequence[str]) -> list[Ratio]:
    """The ratios of a case, with the bounds of the service."""
    ratios = [Ratio("rate", OURS, THREADS, 0.95), Ratio("rate", OURS, ASYNCIO, None)]
    if not case.streamed:
        ratios.append(Ratio("client", OURS, THREADS, 1.10))
        ratios.append(Ratio("p50", OURS, THREADS, 1.10 if case.in_flight == 1 else None))
    if TRITON in contenders:
        streamed = {"stride 32": 1.15, "stride 8": 1.2}[case.stride]
        ratios.append(Ratio("rate", OURS, TRITON, streamed if case.streamed else 1.0))
        if case.streamed:
            ratios.append(Ratio("rate", NARROW, TRITON, 1.7))
    return ratios


def summary(case: SideBySide, samples: Mapping[str, Sequence[Sample]]) -> dict[str, Any]:
    """Medians of each contender, and of each ratio the median of those within a round."""
    medians = {
        name: {
            "calls_per_second": median(sample.rate for sample in taken),
            "client_cpu_microseconds": median(sample.client for sample in taken),
            "server_cpu_microseconds": median(sample.server for sample in taken),
            "p50_milliseconds": median(sample.p50 for sample in taken),
        }
        for name, taken in samples.items()
    }
    ratios = {}
    for ratio in ratios_of(case, list(samples)):
        value = median(
            getattr(ours, ratio.of) / getattr(other, ratio.of)
            for ours, other in zip(samples[ratio.ours], samples[ratio.other], strict=True)
        )
        ratios[str(ratio)] = {"ratio": value, "bound": ratio.bound, "holds": ratio.holds(value)}
    return {"medians": medians, "ratios": ratios}


def contender_table(case: SideBySide, result: Mapping[str, Any]) -> Table:
    """A case."""
    made = Table(title=str(case), title_justify="left", title_style="bold")
    columns = ("", "calls/s", "client CPU µs", "server CPU µs", "p50 ms")
    for column in (*columns, "ours / it: calls/s", "client CPU", "p50"):
        made.add_column(column, justify="right" if column else "left", no_wrap=True)
    for name, medians in result["medians"].items():
        rate, client, server, p50 = medians.values()
        shown = "" if case.streamed else f"{p50:.2f}"
        cells = [_cell(result, of, OURS, name) for of in ("rate", "client", "p50")]
        if name == NARROW:
            of_triton = _cell(result, "rate", NARROW, TRITON)
            cells[0] = f"it / Triton: {of_triton}" if of_triton else ""
        made.add_row(name, f"{rate:,.0f}", f"{client:,.0f}", f"{server:,.0f}", shown, *cells)
    return made


def _cell(result: Mapping[str, Any], of: str, ours: str, other: str) -> str:
    ratio = result["ratios"].get(str(Ratio(of, ours, other, None)))
    if ratio is None:
        return ""
    if ratio["bound"] is None:
        return f"{ratio['ratio']:.2f}"
    sign, colour = "≥" if of == "rate" else "≤", "green" if ratio["holds"] else "red"
    mark = "✓" if ratio["holds"] else "✗"
    return f"[{colour}]{ratio['ratio']:.2f} {sign} {ratio['bound']:.2f} {mark}[/]"
