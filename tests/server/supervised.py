"""Small workers under a real `Supervisor`, for tests: `supervised.py FOLDER --workers N ...`.

A worker answers each connection to the shared port with its index and process id. Files in the
folder make it misbehave: ``exit-I``, which holds an exit code, ends worker I at its start; with
``hang-I`` it never gets ready, and with ``stubborn-I`` it goes on after SIGTERM.
The supervisor notes the index of each worker that ended in ``exits``.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path

from cass_core.errors import CassError
from cass_server.lifeline import Lifeline
from cass_server.logs import set_up_logging
from cass_server.ports import reserve_port
from cass_server.supervisor import Backoff, Supervisor


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--stop-seconds", type=float, default=60.0)
    parser.add_argument("--worker-program", default=sys.executable)
    # What `ServerProcess` starts every server with.
    parser.add_argument("--host")
    parser.add_argument("--port", type=int)
    parser.add_argument("--device")
    return parser.parse_args()


def _supervise(arguments: argparse.Namespace) -> int:
    held, port = reserve_port(arguments.host, arguments.port)
    address = f"{arguments.host}:{port}"

    def note_exit(index: int) -> None:
        with (arguments.folder / "exits").open("a") as exits:
            exits.write(f"{index}\n")

    command = (arguments.worker_program, __file__, str(arguments.folder))
    with held:
        return Supervisor(
            command,
            arguments.workers,
            {**os.environ, "PORT": str(port)},
            drain_seconds=0.0,
            margin_seconds=arguments.stop_seconds,
            on_ready=lambda: logging.info("serving", extra={"address": address}),
            on_exit=note_exit,
            new_backoff=lambda: Backoff(first_seconds=0.04, limit_seconds=0.16),
        ).run()


async def _work(lifeline: Lifeline, folder: Path, environment: Mapping[str, str]) -> None:
    stop = asyncio.Event()
    stubborn = (folder / f"stubborn-{lifeline.index}").exists()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, _on_signal, lifeline, number, stop)
    answer = json.dumps([lifeline.index, os.getpid()]).encode()

    def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answer)
        writer.close()

    server = await asyncio.start_server(
        greet, "127.0.0.1", int(environment["PORT"]), reuse_port=True
    )
    async with server:
        lifeline.ready()
        gone = asyncio.ensure_future(lifeline.lost())
        stopped = asyncio.ensure_future(asyncio.Event().wait() if stubborn else stop.wait())
        await asyncio.wait((gone, stopped), return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()


def _on_signal(lifeline: Lifeline, number: signal.Signals, stop: asyncio.Event) -> None:
    logging.info("worker got signal", extra={"worker": lifeline.index, "signal": number.name})
    stop.set()


def _misbehave(lifeline: Lifeline, folder: Path) -> None:
    ending = folder / f"exit-{lifeline.index}"
    if ending.exists():
        sys.exit(int(ending.read_text()))
    if (folder / f"hang-{lifeline.index}").exists():
        logging.info("worker hangs", extra={"worker": lifeline.index, "pid": os.getpid()})
        asyncio.run(lifeline.lost())
        sys.exit(1)


def main() -> int:
    """Be the supervisor, or a worker if there is a lifeline."""
    set_up_logging("info")
    lifeline = Lifeline.from_environment()
    if lifeline is None:
        try:
            return _supervise(_arguments())
        except CassError as error:
            logging.error("refused", extra={"reason": str(error)})
            return 1
    folder = Path(sys.argv[1])
    _misbehave(lifeline, folder)
    asyncio.run(_work(lifeline, folder, os.environ))
    return 0


if __name__ == "__main__":
    sys.exit(main())
