"""A server's life as its operator sees it: real processes, signals and probes."""

from __future__ import annotations

import json
import signal
import socket
from pathlib import Path

import grpc
import pytest
from google.protobuf import descriptor_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from cass.v1 import cass_pb2 as pb
from cass.v1 import cass_pb2_grpc
from cass_core import __version__
from tests.server.support.processes import LIMIT, free_port, health, held, status_name, wait_until
from tests.server.support.requests import mask_request
from tests.support.servers import ServerProcess, server_process, serving

DEAF = Path(__file__).parents[1] / "support" / "deaf_server.py"
SIGNALS = pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])


def events(server: ServerProcess) -> list[str]:
    """What a process that has ended has logged; every line must be a JSON object."""
    return [json.loads(line)["event"] for line in server.lines]


@SIGNALS
def test_a_signal_that_does_not_interrupt_is_not_lost(number: signal.Signals) -> None:
    with serving(program=(str(DEAF), "serve")) as server:
        assert health(server.address) == "SERVING"
        assert server.stop(number) == 0
    assert events(server) == ["warming up", "serving", "stopped"]


def test_health_info_and_stop() -> None:
    with serving() as server:
        assert health(server.address) == "SERVING"
        assert health(server.address, "cass.v1.CassService") == "SERVING"
        with pytest.raises(grpc.RpcError) as caught:
            health(server.address, "cass.v1.NoService")
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND
        with grpc.insecure_channel(server.address) as channel:
            info = cass_pb2_grpc.CassServiceStub(channel).GetServerInfo(
                pb.GetServerInfoRequest(), timeout=LIMIT
            )
        assert info == pb.GetServerInfoResponse(
            version=__version__,
            device="cpu",
            limits=pb.Limits(
                message_bytes=67_108_864,
                images=4_096,
                boxes=262_144,
                patches=16_777_216,
                feature_maps=16,
                requests_in_flight=24,
                queue_bytes=536_870_912,
                streams_per_connection=16,
                keepalive_min_seconds=10,
            ),
        )
        assert server.stop() == 0
    assert events(server) == ["warming up", "serving", "stopped"]


def test_reflection() -> None:
    """What grpcurl and the like ask for: the services, and the file that one is from."""
    asked = reflection_pb2.ServerReflectionRequest
    with serving() as server, grpc.insecure_channel(server.address) as channel:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        requests = [asked(list_services=""), asked(file_containing_symbol="cass.v1.CassService")]
        listed, described = stub.ServerReflectionInfo(iter(requests), timeout=LIMIT)
    names = {service.name for service in listed.list_services_response.service}
    assert names == {
        "cass.v1.CassService",
        "grpc.health.v1.Health",
        "grpc.reflection.v1alpha.ServerReflection",
    }
    (data,) = described.file_descriptor_response.file_descriptor_proto
    file = descriptor_pb2.FileDescriptorProto.FromString(data)
    assert file.name == "cass/v1/cass.proto"
    assert [method.name for method in file.service[0].method] == [
        "GenerateMask",
        "StreamMasks",
        "ComputeLoss",
        "GetServerInfo",
    ]


@SIGNALS
def test_drain_answers_what_is_in_flight(number: signal.Signals, tmp_path: Path) -> None:
    (tmp_path / "warm").touch()
    with (
        serving("--drain-seconds", "60", program=held(tmp_path)) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        in_flight = cass_pb2_grpc.CassServiceStub(channel).GenerateMask.future(
            mask_request(), timeout=LIMIT
        )
        wait_until((tmp_path / "waiting").exists, server)
        watch = health_pb2_grpc.HealthStub(channel).Watch(
            health_pb2.HealthCheckRequest(service="cass.v1.CassService"), timeout=LIMIT
        )
        assert status_name(next(watch)) == "SERVING"
        server.process.send_signal(number)
        # Balancers are told, and new requests refused, before the old one is answered.
        assert status_name(next(watch)) == "NOT_SERVING"
        watch.cancel()
        wait_until(lambda: refused(server.address), server)
        assert not in_flight.done()
        (tmp_path / "go").touch()
        assert list(in_flight.result(timeout=LIMIT).masks[0].shape) == [1, 4, 4]
        assert server.stop() == 0
    assert events(server) == ["warming up", "serving", "stopped"]


def refused(address: str) -> bool:
    """Whether new connections find nobody."""
    host, _, port = address.rpartition(":")
    with socket.socket() as probe:
        return probe.connect_ex((host, int(port))) != 0


def test_drain_has_an_end(tmp_path: Path) -> None:
    (tmp_path / "warm").touch()
    with (
        serving("--drain-seconds", "0.1", program=held(tmp_path)) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        stub = cass_pb2_grpc.CassServiceStub(channel)
        in_flight = stub.GenerateMask.future(mask_request(), timeout=LIMIT)
        wait_until((tmp_path / "waiting").exists, server)
        server.process.send_signal(signal.SIGTERM)
        with pytest.raises(grpc.RpcError) as caught:
            in_flight.result(timeout=LIMIT)
        assert caught.value.code() in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}
        # The process goes, though the thread is still at its work.
        assert server.process.wait(timeout=LIMIT) == 0


def test_not_serving_before_it_is_warm(tmp_path: Path) -> None:
    port = free_port()
    with server_process("--port", str(port), program=held(tmp_path)) as server:
        address = f"127.0.0.1:{port}"
        for service in ("", "cass.v1.CassService"):
            assert health(address, service) == "NOT_SERVING"
        assert events(server) == ["warming up"]
        (tmp_path / "warm").touch()
        server.wait_until_serving()
        assert server.address == address
        for service in ("", "cass.v1.CassService"):
            assert health(address, service) == "SERVING"


@SIGNALS
def test_signal_while_warming_up(number: signal.Signals, tmp_path: Path) -> None:
    port = free_port()
    with server_process("--port", str(port), program=held(tmp_path)) as server:
        assert health(f"127.0.0.1:{port}") == "NOT_SERVING"
        assert server.stop(number) == 0
    assert events(server) == ["warming up", "stopped"]


def test_port_taken() -> None:
    """The second server says so in one line and goes; the first serves on."""
    with serving() as first:
        port = first.address.rpartition(":")[2]
        with server_process("--port", port) as second:
            assert second.process.wait(timeout=LIMIT) == 1
        assert second.lines[1:] == [
            f"cass-server: cannot listen on {first.address}: Address already in use\n"
        ]
        assert health(first.address) == "SERVING"


@pytest.mark.parametrize(
    ("host", "reason"),
    [("192.0.2.1", "Cannot assign requested address"), ("no.such.host.invalid", "not known")],
)
def test_a_host_that_is_none_of_this_machine(host: str, reason: str) -> None:
    with server_process("--host", host, "--insecure") as server:
        assert server.process.wait(timeout=LIMIT) == 1
    line = server.lines[-1]
    assert line.startswith(f"cass-server: cannot listen on {host}:0: ")
    assert line.endswith(f"{reason}\n")


def test_ipv6_address_in_the_log_can_be_connected_to() -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no IPv6")
    with serving("--host", "::1") as server:
        assert server.address.startswith("[::1]:")
        assert health(server.address) == "SERVING"
