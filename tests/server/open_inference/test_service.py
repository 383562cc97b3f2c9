"""The service of the Open Inference Protocol, by a real server and plain gRPC."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest
from google.protobuf.message import Message

from cass.inference import grpc_predict_v2_pb2 as pb
from cass_core import __version__
from cass_server.config.limits import Limits
from tests.server.support.details import fails
from tests.server.support.engines import HELD, HoldingEngine
from tests.server.support.in_thread import SLOTS, Running, running
from tests.server.support.inference import arrays_of, box_inputs, infer_request
from tests.server.support.processes import LIMIT
from tests.server.support.requests import Writer

SERVICE = pb.DESCRIPTOR.services_by_name["GRPCInferenceService"]
LEFT_OUT = [
    *("ModelStatistics", "RepositoryIndex", "RepositoryModelLoad", "RepositoryModelUnload"),
    *(
        f"{kind}SharedMemory{verb}"
        for kind in ("System", "Cuda")
        for verb in ("Status", "Register")
    ),
    *("SystemSharedMemoryUnregister", "CudaSharedMemoryUnregister", "TraceSetting", "LogSettings"),
]
"""Triton's other methods."""
KNOWN = ": cass_mask and cass_loss have version 1"


def path(method: str) -> str:
    return f"/{SERVICE.full_name}/{method}"


def call(server: Running, method: str, request: Message, **options: Any) -> Any:
    """A call of a method with one message."""
    kind = getattr(pb, f"{method}Response")
    stub = server.channel.unary_unary(
        path(method), type(request).SerializeToString, kind.FromString
    )
    return stub(request, timeout=LIMIT, **options)


def stream(server: Running, requests: Any, **options: Any) -> Any:
    """The answers of ``ModelStreamInfer``."""
    stub = server.channel.stream_stream(
        path("ModelStreamInfer"),
        pb.ModelInferRequest.SerializeToString,
        pb.ModelStreamInferResponse.FromString,
    )
    return stub(iter(requests), timeout=LIMIT, **options)


@pytest.fixture
def server() -> Iterator[Running]:
    with running() as started:
        started.health.set(serving=True)
        yield started


def test_it_is_ready_once_it_serves() -> None:
    with running() as server:
        for expected in (False, True):
            assert call(server, "ServerLive", pb.ServerLiveRequest()).live
            assert call(server, "ServerReady", pb.ServerReadyRequest()).ready == expected
            ready = call(server, "ModelReady", pb.ModelReadyRequest(name="cass_mask")).ready
            assert ready == expected
            server.health.set(serving=True)
        for name, version in (("cass", ""), ("cass_loss", "2")):
            request = pb.ModelReadyRequest(name=name, version=version)
            assert not call(server, "ModelReady", request).ready


def test_metadata(server: Running) -> None:
    got = call(server, "ServerMetadata", pb.ServerMetadataRequest())
    assert (got.name, got.version) == ("cass", __version__)
    assert list(got.extensions) == ["model_configuration"]
    got = call(server, "ModelMetadata", pb.ModelMetadataRequest(name="cass_mask", version="1"))
    assert (got.name, list(got.versions), got.platform) == ("cass_mask", ["1"], "cass")
    assert [(t.name, t.datatype, list(t.shape)) for t in (*got.inputs, *got.outputs)] == [
        ("BOXES", "FP32", [-1, 4]),
        ("COUNTS", "INT32", [-1]),
        ("IMAGE_SIZES", "INT32", [-1, 2]),
        ("FEATURE_MAPS", "INT32", [-1, 2]),
        ("MASK_0", "FP32", [-1, -1, -1]),
        ("OWNER_0", "INT32", [-1, -1, -1]),
    ]
    config = call(server, "ModelConfig", pb.ModelConfigRequest(name="cass_loss")).config
    assert (config.name, config.max_batch_size, config.backend) == ("cass_loss", 0, "cass")
    assert [(t.name, t.data_type, t.optional) for t in config.input][:3] == [
        ("LOGITS", pb.TYPE_FP32, False),
        ("TARGET", pb.TYPE_FP32, True),
        ("BOXES", pb.TYPE_FP32, True),
    ]
    assert config.input[-1].name == "WEIGHTS"
    assert config.input[-1].optional
    assert [(t.name, t.data_type, list(t.dims)) for t in config.output] == [
        ("LOSS", pb.TYPE_FP32, [-1]),
        ("SUM", pb.TYPE_FP64, [1]),
        ("NORMALIZER", pb.TYPE_FP64, [1]),
        ("GRAD", pb.TYPE_FP32, [-1, -1]),
    ]


@pytest.mark.parametrize(("method"), ["ModelMetadata", "ModelConfig"])
def test_metadata_of_another_model(server: Running, method: str) -> None:
    request = getattr(pb, f"{method}Request")(name="resnet", version="3")
    words = "there is no model 'resnet' of version '3': cass_mask and cass_loss have version 1"
    with fails("NOT_FOUND", words):
        call(server, method, request)
    long = getattr(pb, f"{method}Request")(name="x" * 2000)
    with fails(
        "INVALID_ARGUMENT", f"request: has 2003 bytes, inference.{method}Request has 1024 at most"
    ):
        call(server, method, long)


@pytest.mark.parametrize("method", LEFT_OUT)
def test_what_is_left_out_is_unimplemented_by_name(server: Running, method: str) -> None:
    with fails("UNIMPLEMENTED", f"there is no method {path(method)}"):
        server.channel.unary_unary(path(method))(b"", timeout=LIMIT)


def test_errors_of_a_call(server: Running) -> None:
    with fails("NOT_FOUND", f"there is no model 'resnet'{KNOWN}"):
        call(server, "ModelInfer", infer_request(box_inputs(), model="resnet"))
    with fails("INVALID_ARGUMENT", "COUNTS: add up to 2, but there are 1 boxes"):
        call(server, "ModelInfer", infer_request(box_inputs(counts=[2])))
    with fails("INVALID_ARGUMENT", "request: is not an inference.ModelInferRequest"):
        server.channel.unary_unary(path("ModelInfer"))(b"\xff", timeout=LIMIT)


def test_a_stream_goes_on_after_an_error(server: Running) -> None:
    good, bad = infer_request(box_inputs(), id="a"), infer_request(box_inputs(counts=[2]), id="b")
    other = infer_request(box_inputs(), id="c", model="resnet")
    expected = call(server, "ModelInfer", good)
    answers = list(stream(server, [good, bad, other, good]))
    assert [answer.infer_response.id for answer in answers] == ["a", "b", "c", "a"]
    assert [answer.error_message for answer in answers] == [
        "",
        "COUNTS: add up to 2, but there are 1 boxes",
        "there is no model 'resnet': cass_mask and cass_loss have version 1",
        "",
    ]
    for answer in (answers[0], answers[3]):
        assert answer.infer_response == expected
    assert arrays_of(expected)["MASK_0"].max() == 1


def test_it_is_counted(server: Running) -> None:
    call(server, "ModelInfer", infer_request(box_inputs(maps=[(4, 4), (2, 2)])))
    list(stream(server, [infer_request(box_inputs())] * 2))
    call(server, "ServerLive", pb.ServerLiveRequest())
    with fails("NOT_FOUND", f"there is no model ''{KNOWN}"):
        call(server, "ModelConfig", pb.ModelConfigRequest())
    server.wait_in_flight(0)
    assert server.ended() == {
        ("ModelInfer", "OK"): 1,
        ("ModelStreamInfer", "OK"): 2,
        ("ServerLive", "OK"): 1,
        ("ModelConfig", "NOT_FOUND"): 1,
    }
    assert server.counted()["cass_patches_total",] == 20 + 2 * 16


def test_a_token_is_needed() -> None:
    friend = (("name", "friend"),)

    def allows(metadata: Any) -> bool:
        return friend[0] in [tuple(entry) for entry in metadata]

    with running(allows=allows) as server:
        words = "a valid token is needed: authorization: Bearer TOKEN"
        with fails("UNAUTHENTICATED", words):
            call(server, "ModelInfer", infer_request(box_inputs()))
        with fails("UNAUTHENTICATED", words):
            list(stream(server, []))
        with fails("UNAUTHENTICATED", words):
            call(server, "ServerLive", pb.ServerLiveRequest())
        call(server, "ModelInfer", infer_request(box_inputs()), metadata=friend)


def test_limits_are_shared_with_our_own_service() -> None:
    """A request of each service fills a server of two; then both are refused."""
    engine = HoldingEngine()
    with (
        running(engine, Limits(requests_in_flight=2)) as server,
        engine.holding(server.stub),
    ):
        held = server.channel.unary_unary(path("ModelInfer")).future(
            infer_request(box_inputs(counts=[1, 0])).SerializeToString(), timeout=LIMIT
        )
        server.wait_in_flight(2)
        words = "the server is full: 2 requests in flight at most"
        with fails("RESOURCE_EXHAUSTED", words):
            call(server, "ModelInfer", infer_request(box_inputs()))
        assert not server.has_room()
        engine.gate.open()
        held.result(LIMIT)


def test_streams_are_counted_together() -> None:
    with running(limits=Limits(streams=1)) as server:
        writer: Writer[pb.ModelInferRequest] = Writer()
        held = stream(server, writer)
        writer.write(infer_request(box_inputs()))
        next(held)
        with fails("RESOURCE_EXHAUSTED", "the server is full: 1 streams in flight at most"):
            list(server.stub.StreamMasks(iter(()), timeout=LIMIT))
        writer.close()
        assert not list(held)


def test_large_answers_are_counted_in_bytes() -> None:
    with running(limits=Limits(queue_bytes=1 << 16)) as server:
        inputs = box_inputs(maps=[(512, 512)])
        got = call(server, "ModelInfer", infer_request(inputs))  # alone, it may be of any size
        assert arrays_of(got)["MASK_0"].shape == (1, 512, 512)
        loss = {"LOGITS": np.zeros((1, 512, 512), np.float32), **inputs}
        request = infer_request(loss, model="cass_loss", outputs=["GRAD"])
        assert arrays_of(call(server, "ModelInfer", request))["GRAD"].shape == (1, 512, 512)
        server.assert_all_is_given_back()


def test_a_server_that_stops_ends_streams_and_refuses_calls(server: Running) -> None:
    writer: Writer[pb.ModelInferRequest] = Writer()
    held = stream(server, writer)
    writer.write(infer_request(box_inputs()))
    next(held)
    server.router.close()
    server.streams.stop()
    with fails("UNAVAILABLE", "the server is stopping"):
        next(held)
    writer.close()
    with fails("UNAVAILABLE", "the server is stopping"):
        call(server, "ModelInfer", infer_request(box_inputs()))


def test_what_expires_in_the_queue_is_not_computed() -> None:
    engine = HoldingEngine()
    with running(engine) as server:
        with engine.holding(server.stub, SLOTS):
            with pytest.raises(grpc.RpcError) as caught:
                server.channel.unary_unary(path("ModelInfer"))(
                    infer_request(box_inputs(counts=[1, 0, 0])).SerializeToString(), timeout=0.2
                )
            assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        server.wait_in_flight(0)
        assert engine.images == [HELD] * SLOTS
