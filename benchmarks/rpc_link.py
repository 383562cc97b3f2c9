"""Narrower masks over a network link: requests a second by dtype at a bandwidth of ours.

Between two cores of one machine bytes cost little, and a narrower dtype gains little. Between
machines they are what a large mask costs. `python -m benchmarks.rpc_link ADDRESS` relays
connections to a server at `BYTES_A_SECOND` each way, as a link of 1 Gbit/s does, and prints its
port.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from statistics import median
from typing import Any

import grpc
import numpy as np
import uvloop
from rich.table import Table

from benchmarks.rpc_client import IMAGE_SIZE, IMAGES, MAPS
from benchmarks.rpc_servers import SERVICE, SPEC
from cass import wire
from cass_core.masks import MaskInputs
from cass_core.scenes import street_boxes

BYTES_A_SECOND = 125_000_000
DTYPES = ("float32", "float16", "uint8")
# Of what fewer bytes allow: twice and four times the rate.
DTYPE_BOUND = 0.8
_BYTES_AT_A_TIME = 1 << 16


class Pipe:
    """One direction of the link."""

    def __init__(self) -> None:
        self._free_at = 0.0

    async def carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Pass bytes on, none before the link has had time for it."""
        while data := await reader.read(_BYTES_AT_A_TIME):
            now = time.perf_counter()
            self._free_at = max(self._free_at, now) + len(data) / BYTES_A_SECOND
            # Sleeping is to the millisecond; what it oversleeps is caught up with.
            if self._free_at - now > 2e-3:
                await asyncio.sleep(self._free_at - now - 1e-3)
            writer.write(data)
            await writer.drain()
        writer.close()


async def relay(host: str, port: int) -> None:
    """Serve the link."""
    up, down = Pipe(), Pipe()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection(host, port)
        await asyncio.gather(
            up.carry(reader, far_writer), down.carry(far_reader, writer), return_exceptions=True
        )

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


async def time_dtypes(address: str, rounds: int, seconds: float) -> dict[str, float]:
    """Requests a second of each dtype over the link, stride 8, 8 in flight, by turns."""
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.rpc_link", address], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    port = process.stdout.readline().strip()
    options = (("grpc.max_receive_message_length", -1), ("grpc.use_local_subchannel_pool", 1))
    rates: dict[str, list[float]] = {dtype: [] for dtype in DTYPES}
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options) as channel:
            rpc: Any = channel.unary_unary(f"/{SERVICE}/GenerateMask")
            for round_ in range(rounds + 1):
                for dtype in DTYPES:
                    rate = await _turn(rpc, _request(dtype), seconds)
                    if round_:
                        rates[dtype].append(rate)
    finally:
        process.kill()
        process.wait()
    return {dtype: median(taken) for dtype, taken in rates.items()}


def link_table(rates: dict[str, float]) -> Table:
    """Rates beside those that the bytes would allow."""
    made = Table(title=f"Stride 8 over a link of {BYTES_A_SECOND * 8e-9:g} Gbit/s")
    for column in ("dtype", "requests a second", "images a second", "of float32's", "bound"):
        made.add_column(column, justify="left" if column == "dtype" else "right")
    for dtype, rate in rates.items():
        gain = rate / rates["float32"]
        bound = DTYPE_BOUND * 4 / np.dtype(dtype).itemsize
        mark = f"[green]≥ {bound:.1f} ✓[/]" if gain >= bound else f"[red]≥ {bound:.1f} ✗[/]"
        made.add_row(dtype, f"{rate:,.0f}", f"{rate * IMAGES:,.0f}", f"{gain:.2f}", mark)
    return made


def _request(dtype: str) -> bytes:
    feature_map, boxes = MAPS["stride 8"]
    arrays = street_boxes(IMAGES, boxes, image_size=IMAGE_SIZE)
    inputs = MaskInputs.check(arrays, IMAGE_SIZE, feature_map, SPEC, dtype, False)
    return wire.mask_request_bytes(inputs)


async def _turn(rpc: Any, request: bytes, seconds: float) -> float:
    end = time.perf_counter() + seconds
    count = 0

    async def caller() -> None:
        nonlocal count
        while time.perf_counter() < end:
            await rpc(request)
            count += 1

    start = time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(8)))
    return count / (time.perf_counter() - start)


def main() -> None:
    """Relay to the address that the first argument says."""
    host, _, port = sys.argv[1].rpartition(":")
    uvloop.run(relay(host, int(port)))


if __name__ == "__main__":
    main()
