"""A server's life as its operator sees it: real processes, signals and probes."""

from __future__ import annotations

import signal
import socket
from pathlib import Path

import grpc
import pytest
from google.protobuf import descriptor_pb2
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from cass.v1 import cass_pb2 as pb
from cass_core import __version__
from tests.server.support.details import fails
from tests.server.support.load import connect, service_of
from tests.server.support.processes import (
    LIMIT,
    cass_server,
    free_port,
    health,
    held,
    wait_until,
)
from tests.server.support.requests import mask_request
from tests.support.programs import ended
from tests.support.servers import ServerProcess, server_process, serving

DEAF = Path(__file__).parents[1] / "support" / "programs" / "deaf_server.py"
SIGNALS = pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])


def events(server: ServerProcess) -> list[str]:
    return [record["event"] for record in server.records()]


@pytest.mark.slow
@SIGNALS
def test_a_signal_that_does_not_interrupt_is_not_lost(number: signal.Signals) -> None:
    with serving(program=(str(DEAF), "serve")) as server:
        assert health(server.address) == "SERVING"
        assert server.stop(number) == 0
    assert events(server) == ["warming up", "serving", "stopped"]


def test_health_and_information(address: str) -> None:
    for service in ("", "cass.v1.CassService", "inference.GRPCInferenceService"):
        assert health(address, service) == "SERVING"
    with fails("NOT_FOUND"):
        health(address, "cass.v1.NoService")
    with service_of(address) as stub:
        info = stub.GetServerInfo(pb.GetServerInfoRequest(), timeout=LIMIT)
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
            work=5 << 30,
        ),
        features=["level_ranges", "logit_clamp", "soft_focal", "weights"],
    )


def test_reflection(address: str) -> None:
    """What grpcurl and the like ask for: the services, and the file that one is from."""
    asked = reflection_pb2.ServerReflectionRequest
    with connect(address) as channel:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        symbols = ("cass.v1.CassService", "inference.GRPCInferenceService")
        requests = [asked(file_containing_symbol=symbol) for symbol in symbols]
        requests.append(asked(list_services=""))
        described, inference, listed = stub.ServerReflectionInfo(iter(requests), timeout=LIMIT)
    names = {service.name for service in listed.list_services_response.service}
    assert names == {
        "cass.v1.CassService",
        "grpc.health.v1.Health",
        "grpc.reflection.v1alpha.ServerReflection",
        "inference.GRPCInferenceService",
    }
    (data,) = inference.file_descriptor_response.file_descriptor_proto
    assert descriptor_pb2.FileDescriptorProto.FromString(data).name == "grpc_predict_v2.proto"
    (data,) = described.file_descriptor_response.file_descriptor_proto
    file = descriptor_pb2.FileDescriptorProto.FromString(data)
    assert file.name == "cass/v1/cass.proto"
    assert [method.name for method in file.service[0].method] == [
        "GenerateMask",
        "StreamMasks",
        "ComputeLoss",
        "GetServerInfo",
    ]


def test_without_the_open_inference_protocol() -> None:
    with serving("--no-open-inference") as server, connect(server.address) as channel:
        with fails(
            "UNIMPLEMENTED", "there is no method /inference.GRPCInferenceService/ServerLive"
        ):
            channel.unary_unary("/inference.GRPCInferenceService/ServerLive")(b"", timeout=LIMIT)
        with fails("NOT_FOUND"):
            health(server.address, "inference.GRPCInferenceService")


def test_drain_has_an_end(tmp_path: Path) -> None:
    program = held(tmp_path, "warm")
    with (
        serving("--drain-seconds", "0.1", program=program) as server,
        service_of(server.address) as stub,
    ):
        in_flight = stub.GenerateMask.future(mask_request(), timeout=LIMIT)
        wait_until((tmp_path / "waiting").exists, server)
        server.process.send_signal(signal.SIGTERM)
        assert in_flight.code() in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}
        # The process goes, though the thread is still at its work.
        assert server.process.wait(timeout=LIMIT) == 0


FAILING_DRAIN = """
import runpy, sys
from cass_server.rpc.streams import MaskStreams

def stop(self):
    raise RuntimeError("asked to fail")

MaskStreams.stop = stop
runpy.run_path(sys.argv.pop(1), run_name="__main__")
"""


def test_a_fault_while_it_stops_keeps_no_process(tmp_path: Path) -> None:
    """With a computation that never ends; the log says which fault it was."""
    program = ("-c", FAILING_DRAIN, *held(tmp_path, "warm"))
    with (
        serving("--drain-seconds", "600", program=program) as server,
        service_of(server.address) as stub,
    ):
        in_flight = stub.GenerateMask.future(mask_request(), timeout=LIMIT)
        wait_until((tmp_path / "waiting").exists, server)
        assert server.stop() == 1
        assert in_flight.code() in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}
    (failed,) = server.records("the server failed")
    assert "asked to fail" in failed["exc_info"]


def test_not_serving_before_it_is_warm(tmp_path: Path) -> None:
    port = free_port()
    address = f"127.0.0.1:{port}"
    with server_process("--port", str(port), program=held(tmp_path)) as server:
        assert health(address) == health(address, "cass.v1.CassService") == "NOT_SERVING"
        probe = cass_server("health", "--address", address, "--timeout", "20")
        assert (probe.returncode, probe.stdout) == (1, f"{address}: NOT_SERVING\n")
        assert events(server) == ["warming up"]
        (tmp_path / "warm").touch()
        server.wait_until_serving()
        assert server.address == address
        assert health(address) == health(address, "cass.v1.CassService") == "SERVING"


@SIGNALS
def test_signal_while_warming_up(number: signal.Signals, tmp_path: Path) -> None:
    port = free_port()
    with server_process("--port", str(port), program=held(tmp_path)) as server:
        assert health(f"127.0.0.1:{port}") == "NOT_SERVING"
        assert server.stop(number) == 0
    assert events(server) == ["warming up", "stopped"]


@SIGNALS
def test_a_signal_while_modules_are_loaded(number: signal.Signals) -> None:
    """A line, not a traceback out of one of them; also as process 1 of a container."""
    code = f"""
        import os, sys
        from cass_server import cli

        class Finder:
            def find_spec(self, name, *_):
                if name == "numpy":
                    os.kill(os.getpid(), {number.value})

        sys.meta_path.insert(0, Finder())
        cli.main()
    """
    done = ended("-c", code, "serve", "--port", "0", "--device", "cpu")
    assert done.stderr.splitlines()[-1] == f"cass-server: stopped by {number.name}"
    assert "Traceback" not in done.stderr
    assert done.returncode == 128 + number


def test_nohup() -> None:
    code = "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)"
    code += "; from cass_server import cli; cli.main()"
    with serving(program=("-c", code, "serve")) as server:
        server.process.send_signal(signal.SIGHUP)
        assert health(server.address) == "SERVING"
        assert server.stop() == 0


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


@pytest.mark.slow
@pytest.mark.parametrize("workers", ["1", "2"])
@pytest.mark.parametrize(
    ("host", "answers"), [("0.0.0.0", (True, False)), ("::", (True, True)), ("::1", (False, True))]
)
@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="needs IPv6")
def test_it_listens_where_it_is_told_to(
    host: str, answers: tuple[bool, bool], workers: str
) -> None:
    with serving("--host", host, "--insecure", "--workers", workers) as server:
        port = int(server.address.rpartition(":")[2])
        found = []
        for family, ip in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
            with socket.socket(family) as probe:
                found.append(probe.connect_ex((ip, port)) == 0)
        assert tuple(found) == answers
        assert health(f"{'[::1]' if answers[1] else '127.0.0.1'}:{port}") == "SERVING"


def test_ipv6_address_in_the_log_can_be_connected_to() -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no IPv6")
    with serving("--host", "::1") as server:
        assert server.address.startswith("[::1]:")
        assert health(server.address) == "SERVING"
