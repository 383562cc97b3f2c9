"""Requests of the Open Inference Protocol: read as those of our own contract are."""

from __future__ import annotations

import json
import math
import tracemalloc
from typing import Any

import numpy as np
import pytest

from cass.codec.decode import lift
from cass.convert import loss_result, masks_of
from cass.inference import grpc_predict_v2_pb2 as pb
from cass.v1 import cass_pb2 as v1
from cass_core import compute_loss
from cass_core.arrays import Array
from cass_core.errors import InvalidRequest
from cass_core.specs import MaskSpec
from cass_server.config.limits import Limits
from cass_server.engines.base import CpuEngine
from cass_server.exceptions import NotFound
from cass_server.open_inference.reader import InferReader
from cass_server.rpc.requests import MaskReader, MaskRequest, Request, read_loss
from tests.server.support.inference import arrays_of, box_inputs, infer_request, typed
from tests.server.support.requests import loss_request, mask_request

ENGINE = CpuEngine()
LIMITS = Limits(images=6, boxes=12, patches=400, feature_maps=3)
SPECS = [{}, {"merge": "sum"}, {"base_sigma": [0.3, 0.6], "patch_size": 2, "min_size": 2}]


def answer(request: Request) -> bytes:
    """As a server on the CPU gives it."""
    if isinstance(request, MaskRequest):
        filled = request.compute(lambda i, out, _: ENGINE.masks(i, out[0], out[1], None), CONTEXT)
        return request.encode(filled)
    return request.encode(ENGINE.losses(request.inputs, None))


CONTEXT: Any = None
"""No engine of these tests looks at it."""


def read(message: pb.ModelInferRequest, limits: Limits = LIMITS) -> Request:
    return InferReader(limits, ENGINE.small_fill)(message.SerializeToString())


def answered(message: pb.ModelInferRequest, limits: Limits = LIMITS) -> dict[str, Array]:
    return arrays_of(pb.ModelInferResponse.FromString(answer(read(message, limits))))


def outcome(reader: InferReader, data: bytes) -> Any:
    """The answer, or the error."""
    try:
        return answer(reader(data))
    except (InvalidRequest, NotFound) as error:
        return type(error), str(error)


def refusal(message: pb.ModelInferRequest, limits: Limits = LIMITS) -> str:
    with pytest.raises(InvalidRequest) as caught:
        read(message, limits)
    return str(caught.value)


BOXES = box_inputs(
    [(1, 2, 17, 30), (0, 0, 0, 0), (8, 8, 40, 12)], [2, 0, 1], [(32, 48)], [(4, 6), (2, 3), (5, 1)]
)


def own(dtype: int, *, owner: bool, spec: dict[str, Any]) -> bytes:
    """The answer of GenerateMask to the same request."""
    request = v1.GenerateMaskRequest(
        boxes=v1.BoxBatch(xyxy=BOXES["BOXES"].tobytes(), counts=[2, 0, 1]),
        image_sizes=v1.ImageSizes(heights=[32], widths=[48]),
        feature_maps=[v1.FeatureMap(height=h, width=w) for h, w in BOXES["FEATURE_MAPS"]],
        mask_spec=v1.MaskSpec(
            **{
                k: {"sum": v1.MERGE_SUM}.get(v, v) if isinstance(v, str) else v
                for k, v in spec.items()
            }
        ),
        dtype=dtype,
        return_owner=owner,
    )
    return answer(MaskReader(LIMITS, ENGINE.small_fill)(request.SerializeToString()))


@pytest.mark.parametrize("spec", SPECS, ids=str)
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_masks_are_those_of_our_own_contract(dtype: str, spec: dict[str, Any]) -> None:
    owner = "merge" not in spec
    number = v1.DataType.Value(f"DATA_TYPE_{dtype.upper()}")
    masks, owners, _ = masks_of(*lift(own(number, owner=owner, spec=spec), v1.GenerateMaskResponse))
    expected = {f"MASK_{i}": mask for i, mask in enumerate(masks)}
    expected |= {f"OWNER_{i}": one for i, one in enumerate(owners)}
    options = {"mask_spec": json.dumps(spec), "dtype": dtype, "return_owner": owner}
    got = answered(infer_request(BOXES, parameters=options))
    assert list(got) == list(expected)
    for name, array in expected.items():
        assert got[name].dtype == array.dtype
        assert np.array_equal(got[name], array), name


def test_only_the_outputs_that_are_asked_for_in_their_order() -> None:
    all_of_them = answered(infer_request(BOXES, parameters={"return_owner": True}))
    names = ["OWNER_2", "MASK_1", "OWNER_0"]
    some = answered(infer_request(BOXES, outputs=names))
    assert list(some) == names
    assert all(np.array_equal(some[name], all_of_them[name]) for name in names)
    # What is not asked for is not computed.
    request = read(infer_request(BOXES, outputs=["MASK_0"], parameters={"return_owner": True}))
    assert isinstance(request, MaskRequest)
    assert not request.inputs.return_owner


def test_an_answer_repeats_the_id_and_names_the_version() -> None:
    for identity in ("", "eins", "é" * 100):
        data = answer(read(infer_request(BOXES, id=identity, model_version="1")))
        got = pb.ModelInferResponse.FromString(data)
        assert (got.model_name, got.model_version, got.id) == ("cass_mask", "1", identity)
        assert [(o.name, o.datatype, list(o.shape)) for o in got.outputs] == [
            ("MASK_0", "FP32", [3, 4, 6]),
            ("MASK_1", "FP32", [3, 2, 3]),
            ("MASK_2", "FP32", [3, 5, 1]),
        ]


@pytest.mark.parametrize("streamed", [False, True])
def test_elements_are_aligned(streamed: bool) -> None:
    """In each of their copies, whatever is before them."""
    reader = InferReader(LIMITS, ENGINE.small_fill, streamed=streamed)
    for length in range(9):
        message = infer_request(BOXES, id="x" * length)
        data = answer(reader(message.SerializeToString()))
        if streamed:
            got = pb.ModelStreamInferResponse.FromString(data).infer_response
        else:
            got = pb.ModelInferResponse.FromString(data)
        assert got.id == "x" * length
        end = len(data)
        for raw in reversed(got.raw_output_contents):
            begin = data.rindex(raw, 0, end)
            assert begin % 4 == 0
            end = begin
        assert len(got.raw_output_contents) == 3


LOGITS = np.linspace(-3, 3, 48, dtype=np.float32).reshape(2, 4, 6)


@pytest.mark.parametrize("dtype", ["float32", "float16", "float64"])
def test_a_loss_is_that_of_our_own_contract(dtype: str) -> None:
    logits, target = LOGITS.astype(dtype), np.abs(LOGITS) / 4
    request = v1.ComputeLossRequest(
        logits=v1.Tensor(
            dtype=v1.DataType.Value(f"DATA_TYPE_{dtype.upper()}"), shape=logits.shape,
            data=logits.tobytes(),
        ),
        target=v1.Tensor(dtype=1, shape=target.shape, data=target.tobytes()),
        loss_spec=v1.LossSpec(kind=v1.LOSS_KIND_BCE, reduction=v1.REDUCTION_PER_OBJECT),
        num_boxes=2.5,
        return_grad=True,
    )  # fmt: skip
    data = answer(read_loss(request.SerializeToString(), LIMITS))
    expected = loss_result(*lift(data, v1.ComputeLossResponse))
    spec = json.dumps({"kind": "bce", "reduction": "per_object"})
    for number in (2.5, "2.5"):
        got = answered(
            infer_request(
                {"LOGITS": logits, "TARGET": target},
                model="cass_loss",
                parameters={"loss_spec": spec, "num_boxes": number, "return_grad": True},
            )
        )
        assert list(got) == ["LOSS", "SUM", "NORMALIZER", "GRAD"]
        assert got["LOSS"].dtype == expected.loss.dtype
        assert got["LOSS"].tolist() == [expected.loss.item()]
        assert (got["SUM"].tolist(), got["NORMALIZER"].tolist()) == ([expected.total], [2.5])
        assert expected.grad is not None
        assert np.array_equal(got["GRAD"], expected.grad)
        assert got["GRAD"].dtype == logits.dtype


@pytest.mark.parametrize("shape", [(2, 4, 6), (2, 24)])
def test_a_loss_with_weights(shape: tuple[int, ...]) -> None:
    """As a local call gives it, with raw contents and with numbers."""
    logits = LOGITS.reshape(shape)
    target, weights = np.abs(logits) / 4, np.linspace(0, 2, 48, dtype=np.float32).reshape(shape)
    expected = compute_loss(logits, target, return_grad=True, weights=weights)
    inputs = {"WEIGHTS": weights, "LOGITS": logits, "TARGET": target}
    request = infer_request(inputs, model="cass_loss", outputs=["LOSS", "GRAD"])
    for message in (request, typed(request)):
        got = answered(message)
        assert got["LOSS"].tolist() == [float(expected.loss)]
        assert np.array_equal(got["GRAD"], expected.grad)


def test_a_loss_against_boxes() -> None:
    """Logits [B, n] too; and of each patch."""
    data = answer(read_loss(loss_request(images=2, boxes=1).SerializeToString(), LIMITS))
    expected = loss_result(*lift(data, v1.ComputeLossResponse))
    boxes = box_inputs([(8, 8, 24, 24)] * 2, [1, 1])
    for shape in ((2, 4, 4), (2, 16)):
        logits = np.zeros(shape, np.float32)
        request = infer_request(
            {"LOGITS": logits, **boxes}, model="cass_loss", outputs=["GRAD", "SUM"]
        )
        got = answered(request)
        assert list(got) == ["GRAD", "SUM"]
        assert expected.grad is not None
        assert np.array_equal(got["GRAD"], expected.grad.reshape(shape))
        assert got["SUM"].tolist() == [expected.total]
        of_patches = infer_request(
            {"LOGITS": logits, **boxes}, model="cass_loss",
            parameters={"loss_spec": '{"reduction": "none"}'},
        )  # fmt: skip
        assert answered(of_patches)["LOSS"].shape == shape


def test_tensors_may_come_as_numbers() -> None:
    target = np.array([[0, 128, 255]], np.uint8)
    for request in (
        infer_request(BOXES | {"COUNTS": BOXES["COUNTS"].astype(np.int32)}),
        infer_request({"LOGITS": np.array([[1.5, -2, 0]]), "TARGET": target}, model="cass_loss"),
    ):
        raw, numbers = answered(request), answered(typed(request))
        assert all(np.array_equal(raw[name], numbers[name]) for name in raw)


def test_many_numbers_are_read_as_they_lie_in_the_message() -> None:
    """Protobuf would be given more than it may."""
    logits = np.linspace(-3, 3, 1 << 16, dtype=np.float32).reshape(1, -1)
    request = infer_request({"LOGITS": logits, "TARGET": np.zeros_like(logits)}, model="cass_loss")
    assert answered(typed(request))["SUM"] == answered(request)["SUM"]
    wide = infer_request(
        {"LOGITS": logits.astype(np.float64), "TARGET": logits * 0}, model="cass_loss"
    )
    assert "bytes beside its boxes and tensors, the server's limit is" in refusal(typed(wide))


def test_nothing_at_all() -> None:
    """No images, with contents and without; and images without boxes."""
    empty = infer_request(box_inputs([], [], [(32, 32)]))
    assert answered(empty)["MASK_0"].shape == (0, 4, 4)
    del empty.raw_input_contents[:2]
    assert "has 2 entries, but there are 4 inputs" in refusal(empty)
    assert not answered(infer_request(box_inputs([], [0, 0])))["MASK_0"].any()


def changed(message: pb.ModelInferRequest) -> list[bytes]:
    """A message cut off, longer, and with each byte changed."""
    data = message.SerializeToString()
    messages = [data[:end] for end in range(len(data))] + [data + b"\0", data + data, data + b":\0"]
    for at, byte in enumerate(data):
        values = {0, 1, 0x1A, 0x3A, 0x7F, 0x80, 0xFF, byte ^ 1} - {byte}
        messages += [data[:at] + bytes([value]) + data[at + 1 :] for value in values]
    return messages


@pytest.mark.parametrize("identity", ["", "7"])
def test_what_was_asked_before_is_read_alike(identity: str) -> None:
    """As by a reader that has read nothing."""
    message = infer_request(box_inputs([(0, 1, 8, 9)] * 2, [0, 2]), id=identity)
    reader = InferReader(LIMITS, ENGINE.small_fill)
    reader(message.SerializeToString())
    for data in changed(message):
        assert outcome(reader, data) == outcome(InferReader(LIMITS, ENGINE.small_fill), data)


def test_to_read_allocates_nothing_of_the_size_of_the_answer() -> None:
    """There may be no room for it."""
    message = infer_request(box_inputs(maps=[(2048, 2048)]), parameters={"return_owner": True})
    read(infer_request(BOXES))  # whatever is loaded once
    tracemalloc.start()
    try:
        request = read(message, Limits())
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert request.answer_bytes == 2048 * 2048 * 8
    assert peak < 1 << 20


def test_a_long_head_costs_later_requests_nothing() -> None:
    """Not even those that cannot be read."""
    logits = np.zeros((1, 1 << 18), np.float32)
    request = infer_request({"LOGITS": logits, "TARGET": logits}, model="cass_loss")
    reader = InferReader(LIMITS, ENGINE.small_fill)
    outcome(reader, b"")  # whatever is loaded once
    reader(typed(request).SerializeToString())
    garbage = b"\xff" * (1 << 22)
    tracemalloc.start()
    try:
        outcome(reader, garbage)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1 << 18


def test_two_threads_read_at_once() -> None:
    """The head of one is longer, by just the first tensor of the other."""
    inputs = box_inputs()
    short = infer_request(inputs).SerializeToString()
    name = "triton_xxx"
    long = infer_request(inputs, parameters={name: True}).SerializeToString()
    assert len(long) - len(short) == 2 + inputs["BOXES"].nbytes
    reader = InferReader(LIMITS, ENGINE.small_fill)
    expected = [outcome(reader, data) for data in (long, short)]
    assert all(isinstance(one, bytes) for one in expected)

    class Known(dict[bytes, Any]):
        def get(self, head: bytes, default: Any = None) -> Any:
            reader._known = dict(self)
            assert outcome(reader, long) == expected[0]
            return super().get(head, default)

    reader._known = Known(reader._known)
    assert outcome(reader, short) == expected[1]


def test_what_was_asked_before_is_not_worked_out_again(monkeypatch: pytest.MonkeyPatch) -> None:
    reader = InferReader(LIMITS, ENGINE.small_fill)
    for identity in ("", "5"):
        reader(infer_request(BOXES, id=identity).SerializeToString())
    monkeypatch.delattr("cass_server.rpc.parsing.lift")
    for identity in ("", "4", "66"):
        moved = BOXES | {"BOXES": BOXES["BOXES"] + 1, "COUNTS": np.array([0, 3, 0])}
        request = reader(infer_request(moved, id=identity).SerializeToString())
        assert isinstance(request, MaskRequest)
        assert request.xyxy.tolist() == (BOXES["BOXES"] + 1).tolist()
        assert request.offsets.tolist() == [0, 0, 3, 3]


def _with(name: str, array: Array) -> pb.ModelInferRequest:
    return infer_request(BOXES | {name: array})


def _with_weights(array: Array) -> pb.ModelInferRequest:
    inputs = {"LOGITS": LOGITS, "TARGET": LOGITS * 0, "WEIGHTS": array}
    return infer_request(inputs, model="cass_loss")


def _without(name: str) -> pb.ModelInferRequest:
    return infer_request({key: array for key, array in BOXES.items() if key != name})


def _of_parameters(model: str = "cass_mask", **parameters: Any) -> pb.ModelInferRequest:
    inputs = BOXES if model == "cass_mask" else {"LOGITS": LOGITS, "TARGET": LOGITS * 0}
    return infer_request(inputs, model=model, parameters=parameters)


INT = np.int32
REFUSED: list[tuple[pb.ModelInferRequest, str]] = [
    (_without("BOXES"), "BOXES: is missing"),
    (_without("FEATURE_MAPS"), "FEATURE_MAPS: is missing"),
    (_with("BOXES", BOXES["BOXES"].astype(np.float64)), "BOXES: must have a datatype of FP32"),
    (_with("BOXES", BOXES["BOXES"].reshape(4, 3)), "BOXES: must have the shape [M, 4], got [4, 3]"),
    (_with("COUNTS", BOXES["COUNTS"][None]), "COUNTS: must have the shape [B], got [1, 3]"),
    (_with("COUNTS", np.array([1, 1, 0])), "COUNTS: add up to 2, but there are 3 boxes"),
    (_with("COUNTS", np.array([4, -1, 0])), "COUNTS: must be at least 0, got -1"),
    (_with("COUNTS", np.array([2**32 + 3, 0, 0])), "COUNTS: add up to 4294967299, but"),
    (_with("COUNTS", np.zeros(7, INT)), "COUNTS: 7 images, the server's limit is 6"),
    (_with("IMAGE_SIZES", np.array([[32, 0]], INT)), "IMAGE_SIZES: must be two whole numbers"),
    (_with("IMAGE_SIZES", np.full((3, 2), -1)), "IMAGE_SIZES[0]: must be two whole numbers"),
    (_with("IMAGE_SIZES", np.full((2, 2), 9)), "IMAGE_SIZES: has 2 entries, but there are"),
    (_with("FEATURE_MAPS", np.array([[4, 4], [0, 4]])), "FEATURE_MAPS[1]: must be two"),
    (_with("FEATURE_MAPS", np.array([[40, 40]])), "FEATURE_MAPS: 4800 patches, the server's limit"),
    (_with("FEATURE_MAPS", np.ones((4, 2), INT)), "FEATURE_MAPS: 4 feature maps, the server's"),
    (_with("FEATURE_MAPS", np.ones((0, 2), INT)), "FEATURE_MAPS: is missing"),
    (_with("MORE", LOGITS), "inputs: 'MORE' is no input: there are BOXES, COUNTS"),
    (infer_request(BOXES, outputs=["MASK_3"]), "outputs: 'MASK_3' is no output"),
    (infer_request(BOXES, outputs=["MASK_01"]), "outputs: 'MASK_01' is no output"),
    (infer_request(BOXES, outputs=["MASK_0", "MASK_0"]), "outputs: 'MASK_0' comes twice"),
    (_of_parameters(sigma=1), "sigma: is no parameter: there are mask_spec, dtype, return_owner"),
    (_of_parameters(dtype="float64"), "dtype: must be one of float32, float16"),
    (_of_parameters(dtype="single"), "dtype: must be one of float32, float16"),
    (_of_parameters(dtype=2), "dtype: must be one of float32, float16"),
    (_of_parameters(return_owner="yes"), "return_owner: must be True or False, got 'yes'"),
    (_of_parameters(mask_spec="best"), "mask_spec: must be a JSON object or one of baseline"),
    (_of_parameters(mask_spec="[" * 10**4), "mask_spec: must be a JSON object or one of baseline"),
    (_of_parameters(mask_spec='{"sigma": 1}'), "mask_spec.sigma: is unknown: there are"),
    (_of_parameters(mask_spec='{"min_size": NaN}'), "mask_spec.min_size: must be a finite number"),
    (
        _of_parameters(mask_spec='{"merge": "sum"}', return_owner=True),
        "return_owner: needs mask_spec.merge max",
    ),
    (_of_parameters("cass_loss", mask_spec="improved"), "mask_spec: needs boxes"),
    (_of_parameters("cass_loss", num_boxes="many"), "num_boxes: must be a number of at least 0"),
    (_of_parameters("cass_loss", num_boxes=-1), "num_boxes: must be a number of at least 0"),
    (
        _of_parameters("cass_loss", loss_spec='{"reduction": "per_object"}'),
        "num_boxes: is needed for loss_spec.reduction per_object",
    ),
    (infer_request({"LOGITS": LOGITS}, model="cass_loss"), "TARGET: give either a target or boxes"),
    (
        infer_request({"LOGITS": LOGITS, "TARGET": LOGITS, **BOXES}, model="cass_loss"),
        "TARGET: give either a target or boxes",
    ),
    (infer_request({"TARGET": LOGITS}, model="cass_loss"), "LOGITS: is missing"),
    (_with_weights(LOGITS), "WEIGHTS[0][0][0]: must be a finite number"),
    (_with_weights(LOGITS[:1] + 3), "WEIGHTS: has the shape [1, 4, 6], the logits have [2, 4, 6]"),
    (_with_weights(LOGITS.astype(np.float64)), "WEIGHTS: must have a datatype of FP32"),
    (
        infer_request(
            {"LOGITS": LOGITS[:1], "WEIGHTS": LOGITS[:1] + 3, **box_inputs(maps=[(4, 6)])},
            model="cass_loss",
        ),
        "WEIGHTS: are made from boxes",
    ),
    (
        infer_request({"LOGITS": LOGITS, **BOXES}, model="cass_loss"),
        "FEATURE_MAPS: must be one (h, w) here",
    ),
    (infer_request(BOXES, id="x" * 501), "id: has 501 bytes, at most 500 fit"),
]  # fmt: skip


@pytest.mark.parametrize(("message", "words"), REFUSED, ids=[words[:50] for _, words in REFUSED])
def test_what_cannot_be_used_is_named(message: pb.ModelInferRequest, words: str) -> None:
    assert refusal(message).startswith(words)


def test_errors_have_the_words_of_our_own_contract() -> None:
    bad = mask_request(images=2)
    bad.boxes.xyxy = np.array([[8, 8, 9, 9], [9, 0, 3, 5]], np.float32).tobytes()
    with pytest.raises(InvalidRequest) as caught:
        MaskReader(LIMITS)(bad.SerializeToString())
    field = caught.value.field
    assert field.startswith("boxes[1]")
    got = refusal(infer_request(box_inputs([(8, 8, 9, 9), (9, 0, 3, 5)], [1, 1])))
    assert got == f"{field.replace('boxes', 'BOXES')}: {caught.value.reason}"


def test_contents_that_do_not_fit() -> None:
    short = infer_request(BOXES)
    short.raw_input_contents[0] = bytes(47)
    assert refusal(short) == "BOXES: has 47 bytes of data, the shape [3, 4] needs 48"
    both = typed(infer_request(BOXES))
    both.raw_input_contents.extend(infer_request(BOXES).raw_input_contents)
    assert refusal(both) == "raw_input_contents: must be empty beside typed contents"
    negative = infer_request(BOXES)
    negative.inputs[0].shape[:] = [-1, 4]
    assert refusal(negative) == "BOXES: cannot have the shape [-1, 4]"
    twice = infer_request(BOXES)
    twice.inputs.append(twice.inputs[0])
    assert refusal(twice) == "BOXES: comes twice"
    halves = infer_request(
        {"LOGITS": LOGITS.astype(np.float16), "TARGET": LOGITS * 0}, model="cass_loss"
    )
    del halves.raw_input_contents[:]
    assert refusal(halves) == "LOGITS: has 0 bytes of data, the shape [2, 4, 6] needs 96"
    shared = infer_request(BOXES)
    shared.inputs[1].parameters["shared_memory_region"].string_param = "here"
    assert refusal(shared) == "COUNTS.shared_memory_region: is no parameter"
    classes = infer_request(BOXES, outputs=["MASK_0"])
    classes.outputs[0].parameters["classification"].int64_param = 3
    assert refusal(classes) == "MASK_0.classification: is no parameter"
    empty = infer_request(BOXES)
    empty.parameters["dtype"].SetInParent()
    assert refusal(empty) == "dtype: has no value"


@pytest.mark.parametrize("number", [256, 300, 2**32 - 1])
def test_numbers_beyond_uint8(number: int) -> None:
    target = np.full((1, 2), 255, np.uint8)
    logits = np.zeros((1, 2), np.float32)
    request = typed(infer_request({"LOGITS": logits, "TARGET": target}, model="cass_loss"))
    answered(request)
    request.inputs[1].contents.uint_contents[1] = number
    assert refusal(request) == f"TARGET: has {number}, beyond UINT8"


def test_a_message_of_very_many_fields_ends_at_once() -> None:
    reader = InferReader(LIMITS, ENGINE.small_fill)
    with pytest.raises(InvalidRequest, match="has more than 256 fields"):
        reader(b"\x3a\x00" * (1 << 20))
    reader(infer_request(BOXES).SerializeToString())
    with pytest.raises(InvalidRequest, match="has more than 256 fields"):
        reader(infer_request(BOXES).SerializeToString() + b"\x3a\x00" * (1 << 20))


def test_an_error_is_short_enough_to_be_sent() -> None:
    assert len(refusal(_of_parameters(mask_spec=json.dumps({"merge": "x" * 10**5})))) < 1200
    assert len(refusal(_of_parameters(**{"x" * 10**5: 1}))) < 1200


def test_reserved_parameters_are_ignored() -> None:
    reserved = {
        "sequence_id": 5, "sequence_start": True, "priority": 3, "timeout": 1,
        "binary_data_output": True, "triton_enable_empty_final_response": True,
    }  # fmt: skip
    request = _of_parameters(**reserved)
    request.inputs[0].parameters["binary_data_size"].int64_param = 48
    assert np.array_equal(answered(request)["MASK_0"], answered(infer_request(BOXES))["MASK_0"])


@pytest.mark.parametrize(("name", "version"), [("cass", ""), ("cass_mask", "2"), ("", "")])
def test_another_model(name: str, version: str) -> None:
    with pytest.raises(NotFound, match="there is no model"):
        read(infer_request(BOXES, model=name, model_version=version))


def test_options_that_are_lists_or_nothing() -> None:
    spec = '{"level_ranges": [[0, 16], [16, 32.5], [32.5, Infinity]], "base_sigma": 1}'
    request = read(_of_parameters(mask_spec=spec))
    assert isinstance(request, MaskRequest)
    ranges = ((0.0, 16.0), (16.0, 32.5), (32.5, math.inf))
    assert request.inputs.spec == MaskSpec(level_ranges=ranges, base_sigma=1.0)
    null = read(_of_parameters(mask_spec='{"level_ranges": null}'))
    assert isinstance(null, MaskRequest)
    assert null.inputs.spec == MaskSpec()


def test_work_is_limited_the_second_time_too() -> None:
    """One patch at a time is light, all of them are beyond the limit."""
    limits = Limits(work=1000)
    reader = InferReader(limits, ENGINE.small_fill)
    small, large = (
        infer_request(box_inputs([box] * 20, [20], [(320, 320)], [(16, 16)]))
        for box in ((5, 5, 6, 6), (0, 0, 320, 320))
    )
    for _ in range(2):
        reader(small.SerializeToString())
        with pytest.raises(InvalidRequest, match="patches reached by all boxes, the server"):
            reader(large.SerializeToString())
    logits = {"LOGITS": np.zeros((1, 16, 16), np.float32)}
    boxes = box_inputs([(0, 0, 320, 320)] * 20, [20], [(320, 320)], [(16, 16)])
    words = refusal(infer_request(logits | boxes, model="cass_loss"), limits)
    assert "patches reached by all boxes, the server's limit is 1000" in words


def test_presets() -> None:
    for preset in ("baseline", "improved", "recommended"):
        request = read(_of_parameters(mask_spec=preset))
        assert isinstance(request, MaskRequest)
        assert request.inputs.spec == getattr(type(request.inputs.spec), preset)()
