"""Pings of the client and what the server allows: a pair, here with real connections.

A real pair waits for half a minute; the tests scale its numbers down.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_channelz.v1 import channelz, channelz_pb2

from cass_client import CassClient
from cass_client.errors import Unavailable
from cass_client.transport import channel_options as options_module
from cass_client.transport.channel_options import channel_options
from cass_core.arrays import Array
from cass_server.config.settings import Settings
from tests.server.support.processes import LIMIT, held, wait_until
from tests.server.support.requests import mask_request
from tests.support.servers import ServerProcess, serving

# Pings of a call that waits, after which it is known how the server takes them: it forgives two.
ENOUGH = 6


def test_the_client_pings_less_often_than_the_server_allows() -> None:
    """Half as often: a ping may come late, and the next one in time."""
    options, server = dict(channel_options()), Settings()
    assert options["grpc.keepalive_time_ms"] >= 2 * 1000 * server.keepalive_min_client_seconds
    assert options["grpc.http2.ping_timeout_ms"] == options["grpc.keepalive_timeout_ms"]


def scale(monkeypatch: pytest.MonkeyPatch, seconds: float, timeout: float = LIMIT) -> None:
    """Let clients ping so often, and wait so long for the answer."""
    monkeypatch.setattr(options_module, "KEEPALIVE_SECONDS", seconds)
    monkeypatch.setattr(options_module, "KEEPALIVE_TIMEOUT_SECONDS", timeout)


def ask(address: str) -> Array:
    """A mask, from a connection of its own."""
    with CassClient(address, timeout=LIMIT) as client:
        boxes = [np.array([[8, 8, 24, 24]], np.float32)]
        mask: Array = client.generate_mask(boxes, (32, 32), (4, 4))
        return mask


def ask_once(address: str) -> None:
    """A call that is not tried again on another connection."""
    options = (*channel_options(), ("grpc.enable_retries", 0))
    with grpc.insecure_channel(address, options) as channel:
        rpc = channel.unary_unary("/cass.v1.CassService/GenerateMask")
        rpc(mask_request().SerializeToString(), timeout=LIMIT)


@contextlib.contextmanager
def waiting_call(
    folder: Path, *arguments: str, ask: Callable[[str], Any] = ask
) -> Iterator[tuple[ServerProcess, Future[Any], Callable[[], None]]]:
    """A server, a call that it has taken in, and what lets it answer."""
    (folder / "warm").touch()
    with serving(*arguments, program=held(folder)) as server, ThreadPoolExecutor(1) as thread:
        call = thread.submit(ask, server.address)
        try:
            wait_until((folder / "waiting").exists, server)
            yield server, call, (folder / "go").touch
        finally:
            (folder / "go").touch()
            server.process.send_signal(signal.SIGCONT)


def pings_sent(address: str) -> int:
    """Keepalive pings of this process's open connections to a server."""
    query = channelz.ChannelzServicer
    sent = 0
    for channel in query.GetTopChannels(channelz_pb2.GetTopChannelsRequest(), None).channel:
        if address in channel.data.target:
            for subchannel in channel.subchannel_ref:
                request = channelz_pb2.GetSubchannelRequest(subchannel_id=subchannel.subchannel_id)
                for socket in query.GetSubchannel(request, None).subchannel.socket_ref:
                    found = channelz_pb2.GetSocketRequest(socket_id=socket.socket_id)
                    sent += query.GetSocket(found, None).socket.data.keep_alives_sent
    return sent


@pytest.mark.slow
def test_pings_within_the_limit_are_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scale(monkeypatch, seconds=0.2)
    with waiting_call(tmp_path, "--keepalive-min-client-seconds", "0.1") as (server, call, go):
        wait_until(lambda: pings_sent(server.address) >= ENOUGH, server)
        assert not call.done()
        go()
        assert call.result(timeout=LIMIT).shape == (1, 4, 4)


def test_pings_beyond_the_limit_end_the_connection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The counter-test; the server's limit is its default."""
    scale(monkeypatch, seconds=0.2)
    with waiting_call(tmp_path, ask=ask_once) as (_, call, _):
        with pytest.raises(grpc.RpcError, match=r"(?i)too.many.pings") as caught:
            call.result(timeout=LIMIT)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


def test_a_server_that_has_gone_without_a_word_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel of a stopped process acknowledges what comes, and nobody answers the ping."""
    scale(monkeypatch, seconds=0.3, timeout=0.5)
    with waiting_call(tmp_path, "--keepalive-min-client-seconds", "0.1") as (server, call, _):
        server.pause()
        with pytest.raises(Unavailable):
            call.result(timeout=LIMIT / 2)
