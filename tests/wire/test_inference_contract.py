"""The messages of the Open Inference Protocol: in bytes, and out of other packages' way."""

from __future__ import annotations

from pathlib import Path

from cass.inference import grpc_predict_v2_pb2 as pb
from tests.support.programs import printed

# Another file of the same package, with the same name for something else.
THEIRS = """
from google.protobuf import descriptor_pb2, descriptor_pool

file = descriptor_pb2.FileDescriptorProto(
    name="grpc_predict_v2.proto", package="inference", syntax="proto3"
)
file.message_type.add(name="ModelInferRequest").field.add(name="other", number=1, type=9, label=1)
descriptor_pool.Default().AddSerializedFile(file.SerializeToString())
"""


def test_a_request_in_bytes() -> None:
    """Encoded by hand after the encoding guide of protobuf: tag = number << 3 | wire type."""
    request = pb.ModelInferRequest.FromString(
        b"\x0a\x01m"  # 1: model_name
        b"\x12\x011"  # 2: model_version
        b"\x1a\x01i"  # 3: id
        b"\x22\x0a\x0a\x01p\x12\x05\x1a\x03abc"  # 4: parameters: "p" is a string_param
        b"\x2a\x0d\x0a\x01x\x12\x04FP32\x1a\x02\x02\x04"  # 5: inputs: name, datatype, shape
        b"\x32\x03\x0a\x01y"  # 6: outputs: name
        b"\x3a\x02\x01\x02"  # 7: raw_input_contents
    )
    assert (request.model_name, request.model_version, request.id) == ("m", "1", "i")
    assert request.parameters["p"].string_param == "abc"
    (tensor,) = request.inputs
    assert (tensor.name, tensor.datatype, list(tensor.shape)) == ("x", "FP32", [2, 4])
    assert [output.name for output in request.outputs] == ["y"]
    assert list(request.raw_input_contents) == [b"\x01\x02"]


def test_an_answer_in_bytes() -> None:
    response = pb.ModelInferResponse(
        model_name="m", id="i", outputs=[{"name": "y", "datatype": "INT32", "shape": [3]}],
        raw_output_contents=[b"\x07"],
    )  # fmt: skip
    entry = pb.ModelStreamInferResponse(error_message="e", infer_response=response)
    inner = b"\x0a\x01m\x1a\x01i\x2a\x0d\x0a\x01y\x12\x05INT32\x1a\x01\x03\x32\x01\x07"
    assert response.SerializeToString() == inner
    assert entry.SerializeToString() == b"\x0a\x01e\x12" + bytes([len(inner)]) + inner


def test_a_file_and_messages_of_these_names(tmp_path: Path) -> None:
    """In a package that is imported before or after."""
    (tmp_path / "theirs.py").write_text(THEIRS)
    ours = "from cass.inference import grpc_predict_v2_pb2 as pb"
    for imports in (f"import theirs\n{ours}", f"{ours}\nimport theirs"):
        program = f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n{imports}\n"
        program += "print(pb.ModelInferRequest.DESCRIPTOR.fields_by_name['id'].number)"
        assert printed("-c", program) == "3\n"


def test_generated_code_fits_the_stated_floor() -> None:
    """See `tests.wire.test_contract`."""
    assert "ValidateProtobufRuntimeVersion" not in Path(str(pb.__file__)).read_text()
