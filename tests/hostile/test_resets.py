"""Calls that are reset as soon as they have begun, and headers that unpack to more."""

from __future__ import annotations

import contextlib
import struct
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.docker.stack.names import name_server
from tests.docker.stack.proxy import Replacement, proxy
from tests.hostile.support.attacks import CALLS, connections
from tests.hostile.support.scene import peak_memory, under_attack
from tests.server.support.processes import free_port
from tests.server.support.raw_http2 import (
    END_HEADERS,
    HEADERS,
    RST_STREAM,
    Connection,
    call,
    frame,
    request,
)
from tests.server.support.requests import mask_request

pytestmark = pytest.mark.timeout(180)

Record = Callable[[str, Any], None]
CANCEL = struct.pack(">I", 8)
FIRST = "127.0.0.2"
MIB = 1 << 20


def flood(connection: Connection, sends: str, calls: int) -> None:
    """So many calls, each reset at once; what the server says is not looked at."""
    reader = threading.Thread(target=lambda: [None for _ in iter(connection.read, None)])
    reader.start()
    message = mask_request()
    for first in range(1, 2 * calls, 400):
        frames = []
        for stream in range(first, first + 400, 2):
            if sends == "a message":
                frames.append(request("GenerateMask", message, stream))
            else:
                frames.append(call("GenerateMask", stream))
            frames.append(frame(RST_STREAM, 0, stream, CANCEL))
        with contextlib.suppress(OSError):  # the server may have enough of it
            connection.send(*frames)
    connection.shut()
    reader.join()


@pytest.mark.parametrize("sends", ["a message", "nothing"])
def test_rapid_resets(record_property: Record, sends: str) -> None:
    """A hundred thousand, as fast as the server reads them, on four connections."""
    attack = f"resets of calls with {sends}"
    with (
        under_attack(record_property, attack) as scene,
        connections(scene.address, 4) as opened,
    ):
        floods = [
            threading.Thread(target=flood, args=(connection, sends, 25_000))
            for connection in opened
        ]
        for thread in floods:
            thread.start()
        for thread in floods:
            thread.join()
        scene.good.wait_more(100)


def bomb(stream: int, references: int) -> bytes:
    """HEADERS whose block refers to one entry of 4 kB so many times, with a byte each."""
    begin = call("GenerateMask", stream)[9:]
    if stream == CALLS[0]:  # kept in the table (RFC 7541, 6.2.1): 5, and 3,900 bytes
        begin += b"\x40\x05x-big" + b"\x7f\xbd\x1d" + b"a" * 3900
    block = begin + b"\xbe" * references
    assert len(block) <= 16384
    return frame(HEADERS, END_HEADERS, stream, block)


@pytest.mark.parametrize("path", ["direct", "through HAProxy"])
def test_headers_that_unpack_to_more(record_property: Record, tmp_path: Path, path: str) -> None:
    """From a peer that never says that it has the server's SETTINGS, which limit them.

    gRPC then unpacks up to 16 MiB for each call before it refuses it: a proxy does not.
    """
    port = free_port()
    with contextlib.ExitStack() as stack:
        names = stack.enter_context(name_server("server", [FIRST]))
        running = stack.enter_context(proxy(tmp_path, "plain", Replacement(names.port, port)))

        def target(address: str) -> str:
            running.wait_until(lambda: running.up() == 1)
            return address if path == "direct" else running.address

        arguments = ("--host", FIRST, "--port", str(port))
        attack = f"headers that unpack to more, {path}"
        with under_attack(record_property, attack, *arguments, target=target) as scene:
            before = peak_memory(scene.server.process.pid)
            to = target(scene.address)
            references = 3000 if path == "direct" else 10_000
            with connections(to, 8) as opened:
                for connection in opened:
                    with contextlib.suppress(OSError):
                        connection.send(*[bomb(stream, references) for stream in CALLS])
                scene.good.wait_more(100)
            if path != "direct":
                assert peak_memory(scene.server.process.pid) < before + 32 * MIB
