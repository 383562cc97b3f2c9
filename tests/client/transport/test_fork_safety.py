"""Children forked without gRPC's fork support: they are told at once, or compute locally."""

from __future__ import annotations

import textwrap

import pytest

from tests.support.programs import printed

pytestmark = pytest.mark.slow

# What the parent did before the fork; and what the child of it can do.
USES = {
    "nothing": ("", "answered"),
    "closed": (
        "with CassClient(address) as first: first.info()\nwait_for_no_threads()",
        "answered",
    ),
    "a call": ("client.info()", "told"),
    "no call, an open channel": ("channel = grpc.insecure_channel(address)", "told"),
    "another library's call": (
        "channel = grpc.insecure_channel(address)\n"
        "grpc.channel_ready_future(channel).result(timeout=60)",
        "told",
    ),
    "a call of an event loop's": ("asyncio.run(ask_async())\nwait_for_no_threads()", "answered"),
    "an open async client": (
        "loop = asyncio.new_event_loop()\nloop.run_until_complete(keep_async())",
        "told",
    ),
}
PROGRAM = """
    import asyncio, os, sys, time, warnings
    import grpc
    from cass_client.transport import fork_safety
    from cass_client import AsyncCassClient, CassClient, FallbackWarning, Unavailable

    address = sys.argv[1]
    client = CassClient(address, timeout=50)
    safe = CassClient(address, timeout=50, fallback="local")
    kept = AsyncCassClient(address, timeout=50)

    async def ask_async():
        async with AsyncCassClient(address, timeout=50) as asked:
            await asked.info()

    async def keep_async():
        await kept.info()

    def wait_for_no_threads():
        # gRPC's threads end a moment after the last channel.
        end = time.monotonic() + 60
        while len(set(fork_safety._threads().values())) > 1:
            assert time.monotonic() < end
            time.sleep(0.01)

    def child():
        try:
            client.info()
            outcome = "answered"
        except Unavailable as error:
            assert "GRPC_ENABLE_FORK_SUPPORT" in str(error), error
            assert 'fallback="local"' in str(error), error
            outcome = "told"
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for _ in range(3):
                assert safe.generate_mask([None], (8, 8), (2, 2)).shape == (1, 2, 2)
            requests = []
            assert list(safe.stream_masks(requests)) == []
        told = [w for w in caught if w.category is FallbackWarning]
        assert len(told) == (outcome == "told"), told
        assert safe.local_answers == (3 if outcome == "told" else 0)
        client.close()
        print(outcome, flush=True)

    {use}
    # Once more from the child: what is broken stays so.
    for depth in range(2):
        child_id = os.fork()
        if child_id:
            _, status = os.waitpid(child_id, 0)
            if depth:
                os._exit(os.waitstatus_to_exitcode(status))
            break
        child()
    else:
        os._exit(0)
    assert os.waitstatus_to_exitcode(status) == 0, status
    client.info()
    print("parent answered", flush=True)
    os._exit(0)
"""


def run(use: str, address: str, support: str) -> list[str]:
    program = textwrap.dedent(PROGRAM).replace("{use}", use)
    return printed("-c", program, address, env={"GRPC_ENABLE_FORK_SUPPORT": support}).splitlines()


@pytest.mark.parametrize("use", USES)
def test_without_support(address: str, use: str) -> None:
    code, outcome = USES[use]
    # The child of a child that was told is told too; that of one that was answered, of one that
    # uses gRPC.
    assert run(code, address, "0") == [outcome, "told", "parent answered"]


def test_with_support(address: str) -> None:
    code, _ = USES["a call"]
    assert run(code, address, "1") == ["answered", "answered", "parent answered"]


# With support on, gRPC makes ready for a fork if no other thread is calling it.
BESIDE = """
    import asyncio, os, sys, threading
    from cass_client import AsyncCassClient, CassClient, Unavailable

    address = sys.argv[1]
    client = CassClient(address, timeout=50)

    def answer(call):
        try:
            call()
            return 0
        except Unavailable as error:
            assert "asynchronous clients" in str(error), error
            return 3

    def in_children(number, call):
        codes = []
        for _ in range(number):
            child_id = os.fork()
            if not child_id:
                os._exit(answer(call))
            codes.append(os.waitstatus_to_exitcode(os.waitpid(child_id, 0)[1]))
        return set(codes)
"""
BUSY_THREADS = """
    stop = threading.Event()

    def keep_calling():
        while not stop.is_set():
            client.generate_mask([None], (8, 8), (2, 2))

    threads = [threading.Thread(target=keep_calling) for _ in range(2)]
    for thread in threads:
        thread.start()
    print(in_children(20, client.info))
    stop.set()
    for thread in threads:
        thread.join()
    client.info()
    os._exit(0)
"""
OPEN_LOOP = """
    async def use():
        async with AsyncCassClient(address, timeout=50) as used:
            await used.info()

    asyncio.run(use())
    print(in_children(3, lambda: asyncio.run(use())))
    loop = asyncio.new_event_loop()
    kept = AsyncCassClient(address, timeout=50)
    loop.run_until_complete(kept.info())
    print(in_children(3, lambda: asyncio.run(use())), in_children(3, client.info))
    loop.run_until_complete(kept.info())
    os._exit(0)
"""


@pytest.mark.parametrize(
    ("program", "lines"),
    [(BUSY_THREADS, ["{0}"]), (OPEN_LOOP, ["{0}", "{3} {0}"])],
)
def test_others_that_use_grpc(address: str, program: str, lines: list[str]) -> None:
    env = {"GRPC_ENABLE_FORK_SUPPORT": "1", "GRPC_VERBOSITY": "NONE"}
    assert printed("-c", BESIDE + program, address, env=env).splitlines() == lines
