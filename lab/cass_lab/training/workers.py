"""Runs side by side, one thread a process: that is how small networks use a CPU best."""

from __future__ import annotations

import multiprocessing
import signal
import sys
from collections.abc import Callable, Collection, Sequence
from multiprocessing.connection import Connection, wait
from pathlib import Path

from cass_core.errors import CassError
from cass_lab.data.dataset import Dataset
from cass_lab.training.runs import Record, Run, Store

# What a connection raises whose other end is gone.
_CLOSED = (EOFError, BrokenPipeError, ConnectionResetError)


def run_all(
    runs: Sequence[Run],
    data: tuple[Dataset, Dataset],
    store: Store,
    jobs: int,
    step_done: Callable[[int], None] = lambda steps: None,
) -> list[Record]:
    """Carry out what the store does not have yet.

    Args:
        runs: what is requested; equal settings run once.
        data: to train and to measure on.
        store: finished runs are added to it one by one.
        jobs: processes.
        step_done: called with the number of steps as they are done; in all `Run.steps` for each
            run, those finished before included.

    Returns:
        A record for each run, in the order of the runs, under the variant's name.

    Raises:
        CassError: a process died.
    """
    finished = store.records()
    queued = pending(runs, data, finished)[::-1]
    step_done(sum(run.steps for run in runs) - sum(run.steps for run in queued))
    context = multiprocessing.get_context("spawn")
    connections: list[Connection] = []
    try:
        for _ in range(min(jobs, len(queued))):
            ours, theirs = context.Pipe()
            # Daemons end with this process. If it is killed they notice at their next word.
            context.Process(target=_work, args=(theirs, data, store.folder), daemon=True).start()
            theirs.close()
            ours.send(queued.pop())
            connections.append(ours)
        while connections:
            for connection in wait(connections):
                assert isinstance(connection, Connection)
                try:
                    record: Record | None = connection.recv()
                except _CLOSED as error:
                    raise CassError("a training process has died; its error is above") from error
                if record is None:
                    step_done(1)
                    continue
                store.add(record)
                finished[record["key"]] = record
                if queued:
                    connection.send(queued.pop())
                else:
                    connections.remove(connection)
                    connection.close()
    finally:
        for connection in connections:
            connection.close()
    return [{**finished[run.key(*data)], "variant": run.variant.name} for run in runs]


def pending(
    runs: Sequence[Run], data: tuple[Dataset, Dataset], finished: Collection[str]
) -> list[Run]:
    """The runs whose keys are not among the finished ones, equal settings once."""
    by_key: dict[str, Run] = {}
    for run in runs:
        by_key.setdefault(run.key(*data), run)
    return [run for key, run in by_key.items() if key not in finished]


def _work(connection: Connection, data: tuple[Dataset, Dataset], folder: Path) -> None:
    """Runs that come down the connection; None goes back after each step, then the record."""
    import torch

    from cass_lab.training.runs import carry_out

    torch.set_num_threads(1)
    # As the parent ends: by an exception, so that no file is left half-written.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    store = Store(folder)

    def send(word: Record | None) -> None:
        try:
            connection.send(word)
        except _CLOSED:
            raise SystemExit from None  # there is nobody left to work for

    try:
        while True:
            try:
                run: Run = connection.recv()
            except _CLOSED:
                return
            send(carry_out(run, *data, store, lambda: send(None)))
    except KeyboardInterrupt:
        return  # the interrupted process reports it
