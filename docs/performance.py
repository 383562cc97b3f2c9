"""Writes the tables of performance.md, made from benchmarks/results (`make docs`).

With ``--check`` it only says whether they are up to date.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

DOCUMENT = Path(__file__).with_name("performance.md")
RESULTS = DOCUMENT.parents[1] / "benchmarks" / "results"
BLOCK = re.compile(r"(<!-- (\w+), by `make docs` -->\n).*?(<!-- end -->)", re.DOTALL)
IMAGES = 16  # of a batch, in every benchmark

STRIDES = {
    "stride 32": "stride 32: 23×40, 15 boxes",
    "stride 8": "stride 8: 92×160, 30 boxes",
}
WAYS = {  # of Ray: their names in the results, and here
    "native server": "`cass-server serve`, without Ray",
    "native replicas": "`cass-server ray`",
    "direct ingress, tuned": "direct ingress, throughput-optimized",
    "actor calls": "a plain actor",
    "direct ingress": "direct ingress",
    "HAProxy ingress, tuned": "HAProxy, throughput-optimized",
    "Serve's gRPC ingress, tuned": "gRPC ingress, throughput-optimized",
    "Serve's gRPC ingress": "gRPC ingress",
}
FLOODS = {
    "8 callers": "8 callers who wait for each answer",
    "64 callers, who retry when it says": "64 callers who retry in time",
    "4 × the best rate, at random": "callers who never wait, 4 times the best rate",
}


def results(name: str) -> Any:
    """What a benchmark left."""
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def number(value: float) -> str:
    """Three digits, or all that stand before the point.

    Example:
        >>> number(21846.2), number(83.17), number(5.198), number(0.0637)
        ('21,846', '83.2', '5.20', '0.06')
    """
    return f"{value:,.{0 if value >= 100 else 1 if value >= 10 else 2}f}"


def run_of(name: str) -> Iterator[str]:
    """Command, machine and versions of a results file."""
    found = results(name)
    versions = found["versions"]
    yield (
        f"Run: `{found['command']}`; {found['machine']}, {found['cores']} cores; "
        f"Python {found['python']},"
    )
    yield (
        f"NumPy {versions['numpy']}, torch {versions['torch']}, gRPC {versions['grpcio']}; "
        f"[{name}.json](../benchmarks/results/{name}.json)."
    )
    yield ""


def row(*cells: object) -> str:
    """A row of a table."""
    return f"| {' | '.join(map(str, cells))} |"


def head(*cells: str) -> Iterator[str]:
    """The first two rows of a table."""
    yield row(*cells)
    yield f"|{'---|' * len(cells)}"


def masks() -> Iterator[str]:
    """One image's mask, beside what makes it elsewhere."""
    yield from run_of("cpu")
    yield from head("µs per image", "audited", "heatmaps", "`generate_mask`", "zeros", "ratios")
    for stride, found in results("cpu")["masks_microseconds_per_batch"].items():
        ours = found["improved"]
        times = [number(found[name] / IMAGES) for name in ("audited", "heatmaps")]
        ratios = f"{found['audited'] / ours:,.0f}×, {found['heatmaps'] / ours:,.0f}×"
        zeros = number(found["zeros"] / IMAGES)
        yield row(STRIDES[stride], *times, number(ours / IMAGES), zeros, ratios)


def losses() -> Iterator[str]:
    """A batch's loss with its gradient, beside autograd."""
    yield from head("ms per batch", "autograd", "`compute_loss`", "ratio")
    for kind, found in results("cpu")["losses_milliseconds_per_batch"].items():
        ours = found["compute_loss"]
        yield row(
            f"`{kind}`", number(found["autograd"]), number(ours), f"{found['autograd'] / ours:.1f}×"
        )


def limits() -> Iterator[str]:
    """What the kernels' machine code and the cards' data sheets allow at best."""
    yield from head("at least, µs", "card", "memory", "instructions", "float64", "of a copy")
    for case, cards in results("gpu_static")["limits"].items():
        for card, found in cards.items():
            share = found["memory"] / max(found.values())
            yield row(case, card, *map(number, found.values()), f"{share:.2f}")


def host() -> Iterator[str]:
    """What a call on a GPU takes its host."""
    yield from run_of("gpu_host")
    yield from head("", "µs")
    for name, microseconds in results("gpu_host")["microseconds"].items():
        yield row(name.strip(), number(microseconds))


def remote() -> Iterator[str]:
    """A call in the process and to a server."""
    yield from run_of("rpc")
    yield from head("ms per batch", "32: local", "32: remote", "8: local", "8: remote")
    found = results("rpc")["milliseconds_per_batch"]
    for call in ("masks, float32", "masks, float16", "masks, uint8", "loss and gradient"):
        pairs = [found[f"{stride}, {call}"] for stride in STRIDES]
        yield row(call, *(number(pair[where]) for pair in pairs for where in ("local", "remote")))


def loader() -> Iterator[str]:
    """A data loader with and without masks, and what a batch of masks costs it."""
    yield from run_of("loader")
    found = results("loader")
    yield from head("images per second", "no masks", "remote", "`local:`", "audited")
    for name, case in found["cases"].items():
        rates, ratios = case["images_per_second"], case["ratio_to_no_masks"]
        cells = [f"{rates[way]:.0f} ({ratios[way]:.2f})" for way in ("remote", "local:", "audited")]
        yield row(name, f"{rates['no masks']:.0f}", *cells)
    yield ""
    yield from head("ms per batch", "collating in all", "of it waiting for masks", "CPU of masks")
    for way, case in found["milliseconds_to_collate"].items():
        yield row(way, *(number(case[part]) for part in ("collate", "masks", "masks_cpu")))
    call = found["milliseconds_of_a_call"]
    yield ""
    yield (
        f"Of the {number(call['total'])} ms of one call, the kernel takes "
        f"{number(call['compute'])}, packing {number(call['pack'])},"
    )
    yield f"unpacking {number(call['unpack'])}; most of the rest is gRPC's."


def memory() -> Iterator[str]:
    """A loader's worker whose allocator frees or keeps memory."""
    yield from run_of("memory")
    yield from head(
        "a worker's batch", "CPU ms, freed", "kept", "faults, freed", "kept", "MB, freed", "kept"
    )
    for case, found in results("memory")["cases"].items():
        yield row(case, *map(number, found.values()))


def rpc() -> Iterator[str]:
    """Calls that one core answers, beside bare servers and Triton."""
    yield from run_of("rpc")
    cases = results("rpc")["cases"]
    servers = ("ours", "bare threads", "bare asyncio", "Triton")
    yield from head(
        "calls per second", "CASS", "threads", "asyncio", "Triton", "/ threads", "/ Triton"
    )
    for name, case in cases.items():
        rates = [number(case["medians"][server]["rate"]) for server in servers]
        ratios = [case["ratios"][server]["rate"] for server in ("bare threads", "Triton")]
        yield row(
            name.replace(" float32,", ""), *rates, *(f"{ratio['ratio']:.2f}" for ratio in ratios)
        )
    yield ""
    yield from head("CPU µs per call", "server: CASS", "threads", "client: CASS", "bare stub")
    for name, case in cases.items():
        pair = [case["medians"][server] for server in servers[:2]]
        yield row(
            name.replace(" float32,", ""),
            *(number(one[side]) for side in ("server", "client") for one in pair),
        )
    yield ""
    streams = [f"{stride}, float32, 8 in flight, stream, kept memory" for stride in STRIDES]
    rates = [cases[name]["medians"]["ours, uint8"]["rate"] for name in streams]
    yield (
        f"Streamed as uint8 with kept memory, CASS answers {number(rates[0])} calls per second "
        "at stride 32"
    )
    yield f"and {number(rates[1])} at stride 8."


def overload() -> Iterator[str]:
    """A server that is asked for more than it can answer."""
    yield from run_of("overload")
    found = results("overload")
    yield from head("load", "answered, of the best rate", "p50, p99", "health check p50, p99")
    for name, label in FLOODS.items():
        case = found["flood"][name]
        pairs = [
            f"{number(part['p50_milliseconds'])}, {number(part['p99_milliseconds'])} ms"
            for part in (case, case["probes"])
        ]
        rate = f"{case['goodput']:.2f} ({number(case['answered_per_second'])}/s)"
        yield row(label, rate, *pairs)
    yield ""
    refusal, idle = found["refusal"], found["idle"]
    yield (
        f"- A refusal takes {number(refusal['refusal_cpu_microseconds'])} µs of the server's core, "
        f"the smallest answer {number(refusal['smallest_answer_cpu_microseconds'])}."
    )
    yield "- p99 of health checks beside the largest requests:"
    for name, case in found["largest"].items():
        yield f"  - {name}: {number(case['probes']['p99_milliseconds'])} ms"
    changes = [100 * (idle[part]["ratio"] - 1) for part in ("p50", "p99")]
    yield (
        f"- {idle['open']['streams']} idle streams and {idle['open']['watches']} health watches "
        f"change a call's latency by {changes[0]:+.0f} %"
    )
    yield f"  (p50) and {changes[1]:+.0f} % (p99), and take {idle['resident_mib']:.0f} MiB."


def ray() -> Iterator[str]:
    """The ways of a request on a Ray cluster."""
    yield from run_of("ray")
    cases = results("ray")["cases"].values()
    yield from head("way", "32: calls/s", "of serve", "CPU µs", "8: calls/s", "of serve", "CPU µs")
    for name, label in WAYS.items():
        if any(name not in case for case in cases):
            continue  # a way that is not measured any more
        cells = []
        for case in cases:
            found = case[name]
            cells += [number(found["requests_per_second"]), f"{found['ratio']:.2f}"]
            cells += [number(found["serving_cpu_microseconds"])]
        yield row(label, *cells)


BLOCKS: dict[str, Callable[[], Iterator[str]]] = {
    made.__name__: made
    for made in (masks, losses, limits, host, remote, loader, memory, rpc, overload, ray)
}


def filled(text: str) -> str:
    """The document with its blocks written anew."""

    def block(match: re.Match[str]) -> str:
        return "\n".join([match[1], *BLOCKS[match[2]](), "", match[3]])

    return BLOCK.sub(block, text)


def main() -> None:
    """Write the document, or check it."""
    text = DOCUMENT.read_text(encoding="utf-8")
    made = filled(text)
    if sys.argv[1:] == ["--check"]:
        sys.exit(f"{DOCUMENT.name}: run `make docs`" if made != text else 0)
    DOCUMENT.write_text(made, encoding="utf-8")


if __name__ == "__main__":
    main()
