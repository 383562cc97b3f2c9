"""Peers that send nothing or read nothing hold neither threads nor places, for a bounded time."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cass.v1 import cass_pb2 as pb
from cass_client import CassClient, MaskSpec
from cass_core import generate_mask
from tests.docker.stack.names import name_server
from tests.docker.stack.proxy import Replacement, proxy
from tests.hostile.support.attacks import CALLS, HEALTH, connections, half, on_all
from tests.hostile.support.scene import under_attack
from tests.server.support.observed import scrape, value
from tests.server.support.processes import free_port, health, wait_until
from tests.server.support.raw_http2 import (
    HEADERS,
    RST_STREAM,
    Connection,
    call,
    data_frames,
    frames,
    prefixed,
    request,
)
from tests.server.support.requests import mask_request
from tests.support.servers import ServerProcess

pytestmark = pytest.mark.timeout(180)

Record = Callable[[str, Any], None]
SMALL = mask_request()
# An answer of 4 MiB.
LARGE = mask_request(side=1024)
METRICS = ("--metrics-port", "0")
LONG = ("--receive-timeout-seconds", "600", "--send-timeout-seconds", "600")
FIRST = "127.0.0.2"


def waiting(server: ServerProcess, to: str) -> float:
    """Calls that wait for their callers."""
    return value(scrape(server), "cass_waiting_calls", to=to)


def large_masks(client: CassClient) -> Any:
    """What a good caller gets whose answer is counted by its bytes, 1 MiB."""
    boxes = [np.float32([[0, 0, 512, 512]])]
    return client.generate_mask(boxes, (512, 512), (512, 512), MaskSpec(patch_size=1))


@contextlib.contextmanager
def is_served(address: str, **options: Any) -> Iterator[CassClient]:
    """A good caller's client, who gets large masks in the end."""
    boxes = [np.float32([[0, 0, 512, 512]])]
    expected = generate_mask(boxes, (512, 512), (512, 512), MaskSpec(patch_size=1))
    with CassClient(address, timeout=20, **options) as client:
        yield client
        np.testing.assert_array_equal(large_masks(client), expected)


@pytest.mark.parametrize("sends", ["nothing", "half a message"])
def test_calls_without_a_message(record_property: Record, sends: str) -> None:
    """Of each method, more than the server has threads of any kind; probes are answered, too."""
    methods = [("cass.v1.CassService", name) for name in ("GenerateMask", "GetServerInfo")]
    methods += [(HEALTH, "Check"), (HEALTH, "Watch")]
    message = SMALL.SerializeToString()

    def make(service: str, method: str) -> Callable[[int], bytes]:
        return lambda stream: (
            call(method, stream, service=service)
            + (half(message, stream) if sends == "half a message" else b"")
        )

    attack = f"calls that send {sends}"
    with (
        under_attack(record_property, attack, *METRICS, *LONG) as scene,
        contextlib.ExitStack() as stack,
    ):
        for service, method in methods:
            opened = stack.enter_context(connections(scene.address, 17))
            on_all(opened, make(service, method))
        wait_until(lambda: waiting(scene.server, "receive") >= len(methods) * 17 * len(CALLS))
        assert health(scene.address) == "SERVING"
        with is_served(scene.address) as client:
            assert client.info().device == "cpu"
        scene.good.wait_more(100)


def test_calls_without_a_message_end(record_property: Record) -> None:
    """Each by the time that is set."""
    attack = "calls that send nothing, again and again"
    with under_attack(record_property, attack, "--receive-timeout-seconds", "1") as scene:
        for _ in range(2):
            with connections(scene.address, 8) as opened:
                on_all(opened, lambda stream: call("GenerateMask", stream))
                for connection in opened:
                    ended = frames(connection, RST_STREAM, len(CALLS))
                    assert {got[2] for got in ended} == set(CALLS)
        scene.good.wait_more(100)


def test_calls_that_end_without_a_message(record_property: Record) -> None:
    """Why they do, takes the server a moment to know: not of the threads that compute."""

    def flood(connection: Connection) -> None:
        for first in range(1, 10_000, 2 * len(CALLS)):
            streams = range(first, first + 2 * len(CALLS), 2)
            connection.send(*[call("GenerateMask", s) + data_frames(b"", s) for s in streams])
            frames(connection, HEADERS, len(CALLS))

    with (
        under_attack(record_property, "calls that end without a message") as scene,
        connections(scene.address, 4) as opened,
        ThreadPoolExecutor(4) as threads,
    ):
        floods = [threads.submit(flood, connection) for connection in opened]
        scene.good.wait_more(200)
        assert not any(made.done() for made in floods)
        for connection in opened:
            connection.shut()


@pytest.mark.parametrize("answer", ["small", "large"])
def test_answers_that_nobody_reads(record_property: Record, answer: str) -> None:
    """They wait in memory, are counted, and end by the time that is set."""
    asked = SMALL if answer == "small" else LARGE
    attack = f"{answer} answers that nobody reads"
    with (
        under_attack(record_property, attack, *METRICS, "--send-timeout-seconds", "5") as scene,
        connections(scene.address, 16, window=0) as opened,
    ):
        on_all(opened, lambda stream: request("GenerateMask", asked, stream))
        wait_until(lambda: waiting(scene.server, "send") >= len(CALLS))
        with is_served(scene.address):
            scene.good.wait_more(100)
        wait_until(lambda: waiting(scene.server, "send") == 0)
        wait_until(lambda: value(scrape(scene.server), "cass_held_bytes") == 0)


def test_one_connection_holds_a_share_of_the_bytes(record_property: Record) -> None:
    """With answers that it does not read; others have the rest."""
    options = (*METRICS, *LONG, "--max-queue-bytes", "48MiB")
    with (
        under_attack(record_property, "one connection's answers", *options) as scene,
        connections(scene.address, 1, window=0) as opened,
    ):
        on_all(opened, lambda stream: request("GenerateMask", LARGE, stream))
        # Seven of 4 MiB are within 67 % of the limit.
        wait_until(lambda: value(scrape(scene.server), "cass_held_bytes") > 28 << 20)
        assert value(scrape(scene.server), "cass_held_bytes") < 33 << 20
        with is_served(scene.address):
            scene.good.wait_more(100)


def test_one_token_holds_a_share_of_the_bytes(record_property: Record, tmp_path: Path) -> None:
    """However many connections its holder has."""
    tokens = tmp_path / "tokens"
    tokens.write_text("greedy-token-000\nmodest-token-000\n")
    options = (*METRICS, *LONG, "--max-queue-bytes", "48MiB", "--token-file", str(tokens))
    good = "modest-token-000"
    with (
        under_attack(record_property, "one token's answers", *options, token=good) as scene,
        connections(scene.address, 8, window=0) as opened,
    ):
        header = {"authorization": "Bearer greedy-token-000"}
        on_all(opened, lambda stream: request("GenerateMask", LARGE, stream, **header))
        wait_until(lambda: value(scrape(scene.server), "cass_held_bytes") > 28 << 20)
        assert value(scrape(scene.server), "cass_held_bytes") < 33 << 20
        with is_served(scene.address, token=good):
            scene.good.wait_more(100)


def test_streams_that_nobody_reads(record_property: Record) -> None:
    """Each holds a thread that does not compute, until its time is over."""
    message = prefixed(pb.StreamMasksRequest(request=LARGE).SerializeToString())

    def make(stream: int) -> bytes:
        return call("StreamMasks", stream) + data_frames(3 * message, stream, end=False)

    attack = "streams that nobody reads"
    with (
        under_attack(record_property, attack, "--send-timeout-seconds", "5") as scene,
        connections(scene.address, 16, window=0) as opened,
    ):
        on_all(opened, make)
        with is_served(scene.address):
            scene.good.wait_more(100)
        for connection in opened[:4]:
            frames(connection, RST_STREAM, 1)


@pytest.mark.parametrize("attack", ["calls that send nothing", "answers that nobody reads"])
def test_through_the_proxy(record_property: Record, tmp_path: Path, attack: str) -> None:
    """The shipped HAProxy, which puts the calls of several clients on one connection."""
    port = free_port()
    folder = tmp_path
    with contextlib.ExitStack() as stack:
        names = stack.enter_context(name_server("server", [FIRST]))
        running = stack.enter_context(proxy(folder, "plain", Replacement(names.port, port)))

        def target(_: str) -> str:
            running.wait_until(lambda: running.up() == 1)
            return running.address

        arguments = ("--host", FIRST, "--port", str(port), *METRICS)
        name = f"{attack}, through HAProxy"
        with under_attack(record_property, name, *arguments, target=target) as scene:
            window = 0 if attack == "answers that nobody reads" else 65535
            with connections(running.address, 16, window) as opened:
                for connection in opened:
                    for stream in CALLS:
                        connection.send(
                            call("GenerateMask", stream)
                            if window
                            else request("GenerateMask", LARGE, stream)
                        )
                to = "receive" if window else "send"
                wait_until(lambda: waiting(scene.server, to) > 0)
                with is_served(running.address):
                    scene.good.wait_more(100)
