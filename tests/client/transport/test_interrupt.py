"""Ctrl-C ends a program whose futures wait for a server that does not answer."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

import pytest

from tests.server.support.processes import LIMIT, held, wait_until
from tests.support.programs import running_program
from tests.support.servers import serving

pytestmark = pytest.mark.slow

# More than there are threads for them, with hours to wait.
ASK = """
    import sys, threading
    from cass_client import CassClient
    from tests.client.support.faults import MAP, SIZE, SPEC, request

    def ask(client):
        futures = [
            client.generate_mask_future(request(seed).boxes, SIZE, MAP, SPEC) for seed in range(20)
        ]
        print("asked", flush=True)
        futures[0].result()

    client = CassClient(sys.argv[1], timeout=9000)
    if sys.argv[2] == "with":
        with client:
            ask(client)
    else:
        ask(client)
"""


@pytest.mark.parametrize("way", ["with", "without"])
def test_ctrl_c_does_not_wait_for_futures(way: str, tmp_path: Path) -> None:
    with (
        serving(program=held(tmp_path, "warm")) as server,
        running_program(ASK, server.address, way) as program,
    ):
        wait_until((tmp_path / "waiting").exists, server)
        program.send_signal(signal.SIGINT)
        assert program.wait(LIMIT) == -signal.SIGINT


def test_without_ctrl_c_futures_are_waited_for(tmp_path: Path) -> None:
    """As of any executor, also where the program fails."""
    ask = ASK.replace("futures[0].result()", 'raise RuntimeError("before the answers")')
    ask = ask.replace(
        'print("asked"',
        "futures[-1].add_done_callback(lambda f: print(f.result().shape, flush=True))\n"
        '        print("asked"',
    )
    with (
        serving(program=held(tmp_path, "warm")) as server,
        running_program(ask, server.address, "with") as program,
    ):
        wait_until((tmp_path / "waiting").exists, server)
        with pytest.raises(subprocess.TimeoutExpired):
            program.wait(0.5)
        (tmp_path / "go").touch()
        assert program.stdout is not None
        assert program.stdout.read() == "(2, 12, 20)\n"
        assert program.wait(LIMIT) == 1


def test_a_client_goes_on_after_an_interrupt(tmp_path: Path) -> None:
    program = """
        import sys
        import contextlib
        from concurrent.futures import CancelledError
        from cass_client import CassClient
        from tests.client.support.faults import MAP, SIZE, SPEC, ask, expected, request

        client = CassClient(sys.argv[1], timeout=60)
        try:
            with client:
                futures = [
                    client.generate_mask_future(request(seed).boxes, SIZE, MAP, SPEC)
                    for seed in range(100)
                ]
                raise KeyboardInterrupt
        except KeyboardInterrupt:
            pass
        for future in futures:  # ended, however; one that does not end is a TimeoutError
            with contextlib.suppress(CancelledError):
                future.done() or future.exception(60)
        assert (ask(client, 3) == expected(3)).all()
        print("right", flush=True)
    """
    with serving() as server, running_program(program, server.address) as running:
        assert running.wait(LIMIT) == 0
