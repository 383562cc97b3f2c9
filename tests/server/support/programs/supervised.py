"""Small workers under a real `Supervisor`, for tests: `supervised.py FOLDER --workers N ...`.

A worker answers each connection to the shared port with its index and process id. Files in the
folder make it misbehave: ``exit-I``, which holds an exit code, ends worker I at its start; with
``hang-I`` it never gets ready, and with ``stubborn-I`` it goes on after SIGTERM.
The supervisor notes the index of each worker that ended in ``exits``.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import signal
import socketserver
import sys
import threading
from pathlib import Path
from queue import SimpleQueue

from cass_core.errors import CassError
from cass_server.config.address import reserve_port
from cass_server.observability.logging import set_up_logging
from cass_server.process.supervisor import Backoff, Supervisor
from cass_server.process.worker_channel import WorkerChannel


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--stop-seconds", type=float, default=60.0)
    parser.add_argument("--backoff-seconds", type=float, default=0.04)
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
            new_backoff=lambda: Backoff(arguments.backoff_seconds, 4 * arguments.backoff_seconds),
        ).run()


class _Server(socketserver.ThreadingTCPServer):
    allow_reuse_port = True
    daemon_threads = True
    request_queue_size = 128


def _work(channel: WorkerChannel, folder: Path, port: int) -> None:
    # Signals, or None when the supervisor is gone.
    events: SimpleQueue[signal.Signals | None] = SimpleQueue()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _: events.put(signal.Signals(number)))
    answer = json.dumps([channel.index, os.getpid()]).encode()
    is_stubborn = (folder / f"stubborn-{channel.index}").exists()

    def wait_lost() -> None:
        channel.wait_lost()
        events.put(None)

    class Greeter(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.sendall(answer)

    with _Server(("127.0.0.1", port), Greeter) as server:
        for run in (wait_lost, lambda: server.serve_forever(poll_interval=0.02)):
            threading.Thread(target=run, daemon=True).start()
        channel.ready()
        while (got := events.get()) is not None:
            extra = {"worker": channel.index, "signal": got.name}
            logging.info("worker got signal", extra=extra)
            if not is_stubborn:
                break
        server.shutdown()


def _misbehave(channel: WorkerChannel, folder: Path) -> None:
    ending = folder / f"exit-{channel.index}"
    if ending.exists():
        sys.exit(int(ending.read_text()))
    if (folder / f"hang-{channel.index}").exists():
        logging.info("worker hangs", extra={"worker": channel.index, "pid": os.getpid()})
        channel.wait_lost()
        sys.exit(1)


def main() -> int:
    """Be the supervisor, or a worker if there is a channel."""
    set_up_logging("info")
    channel = WorkerChannel.from_environment()
    if channel is None:
        try:
            return _supervise(_arguments())
        except CassError as error:
            logging.error("refused", extra={"reason": str(error)})
            return 1
    folder = Path(sys.argv[1])
    _misbehave(channel, folder)
    _work(channel, folder, int(os.environ["PORT"]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
