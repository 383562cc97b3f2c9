"""The contract: numbers and names that clients in the field rely on."""

from __future__ import annotations

import re
import struct
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from google.protobuf import descriptor_pb2

from cass import convert
from cass.v1 import cass_pb2 as pb
from cass_core import LossSpec, MaskSpec

ROOT = Path(__file__).resolve().parents[2]
PROTO = ROOT / "proto" / "cass" / "v1" / "cass.proto"

# Written by hand. A field keeps its number, name and type for ever; new ones are added here.
FIELDS = {
    "Tensor": "1 dtype DataType, 2 shape uint32*, 3 data bytes",
    "BoxBatch": "1 xyxy bytes, 2 counts uint32*",
    "ImageSizes": "1 heights uint32*, 2 widths uint32*",
    "FeatureMap": "1 height uint32, 2 width uint32",
    "MaskSpec": (
        "1 patch_size uint32?, 2 expansion_ratio double?, 3 min_size double?, "
        "4 use_anisotropic_gaussian bool?, 5 decay_type DecayType, 6 base_sigma double*, "
        "7 temperature Temperature, 8 small_target_gain double?, "
        "9 small_target_threshold double?, 10 size_reference double?, "
        "11 size_factor_min double?, 12 size_factor_max double?, 13 use_subpixel_offset bool?, "
        "14 merge Merge, 15 min_radius double?, 16 level_ranges LevelRange*"
    ),
    "LevelRange": "1 low double, 2 high double",
    "LossSpec": (
        "1 kind LossKind, 2 alpha double?, 3 beta double?, 4 gamma double?, 5 weight double?, "
        "6 reduction Reduction, 7 logit_clamp double?"
    ),
    "GenerateMaskRequest": (
        "1 boxes BoxBatch?, 2 image_sizes ImageSizes?, 3 feature_maps FeatureMap*, "
        "4 mask_spec MaskSpec?, 5 dtype DataType, 6 return_owner bool, "
        "7 weight_spec WeightSpec?, 8 valid_region Tensor?, 9 ignore BoxBatch?, "
        "10 box_weights Tensor?, 11 return_weights bool"
    ),
    "GenerateMaskResponse": "1 masks Tensor*, 2 owners Tensor*, 3 weights Tensor*",
    "WeightSpec": "1 balance Balance, 2 background_weight double?",
    "ComputeLossRequest": (
        "1 logits Tensor?, 2 target Tensor?, 3 mask GenerateMaskRequest?, "
        "4 loss_spec LossSpec?, 5 num_boxes double?, 6 return_grad bool, 7 weights Tensor?"
    ),
    "ComputeLossResponse": "1 loss Tensor?, 2 sum double, 3 normalizer double, 4 grad Tensor?",
    "StreamMasksRequest": "1 request GenerateMaskRequest?",
    "StreamMasksResponse": "1 masks GenerateMaskResponse?, 2 error Error?",
    "Error": "1 code int32, 2 message string, 3 field string, 4 reason string",
    "GetServerInfoRequest": "",
    "Limits": (
        "1 message_bytes uint64, 2 images uint64, 3 boxes uint64, 4 patches uint64, "
        "5 feature_maps uint64, 6 requests_in_flight uint64, 7 queue_bytes uint64, "
        "8 streams_per_connection uint64, 9 keepalive_min_seconds double, "
        "10 work uint64"
    ),
    "GetServerInfoResponse": (
        "1 version string, 2 device string, 3 limits Limits?, 4 features string*"
    ),
}
ENUMS = {
    "DataType": (
        "DATA_TYPE",
        ["UNSPECIFIED", "FLOAT32", "FLOAT16", "BFLOAT16", "UINT8", "FLOAT64", "INT32"],
    ),
    "DecayType": ("DECAY_TYPE", ["UNSPECIFIED", "GAUSSIAN", "LINEAR"]),
    "Temperature": ("TEMPERATURE", ["UNSPECIFIED", "FIXED", "SIZE_SCALED", "SMALL_GAIN"]),
    "Merge": ("MERGE", ["UNSPECIFIED", "MAX", "SUM", "CLIPPED_SUM"]),
    "LossKind": (
        "LOSS_KIND",
        [
            "UNSPECIFIED",
            "MSE",
            "BCE",
            "FOCAL",
            "CORNERNET",
            "QUALITY_FOCAL",
            "VARIFOCAL",
            "SOFT_FOCAL",
        ],
    ),
    "Balance": ("BALANCE", ["UNSPECIFIED", "PATCH", "OBJECT"]),
    "Reduction": ("REDUCTION", ["UNSPECIFIED", "NONE", "MEAN", "SUM", "PER_OBJECT"]),
}
_TYPES = {1: "double", 4: "uint64", 5: "int32", 8: "bool", 9: "string", 12: "bytes", 13: "uint32"}


def _field(field: Any) -> str:
    kind = (field.message_type or field.enum_type or field).name
    if field.message_type is None and field.enum_type is None:
        kind = _TYPES[field.type]
    repeated = isinstance(getattr(_message(field.containing_type.name), field.name), _REPEATED)
    mark = "*" if repeated else "?" if field.has_presence else ""
    return f"{field.number} {field.name} {kind}{mark}"


def _message(name: str) -> Any:
    return getattr(pb, name)()


_REPEATED = (type(pb.Tensor().shape), type(pb.GenerateMaskResponse().masks))


@pytest.mark.parametrize("name", sorted(FIELDS))
def test_fields(name: str) -> None:
    message = pb.DESCRIPTOR.message_types_by_name[name]
    assert ", ".join(_field(field) for field in message.fields) == FIELDS[name]


@pytest.mark.parametrize("name", sorted(ENUMS))
def test_enums(name: str) -> None:
    prefix, values = ENUMS[name]
    enum = pb.DESCRIPTOR.enum_types_by_name[name]
    expected = {f"{prefix}_{value}": number for number, value in enumerate(values)}
    assert {value.name: value.number for value in enum.values} == expected


def test_nothing_else_is_in_the_contract() -> None:
    assert pb.DESCRIPTOR.package == "cass.v1"
    assert set(pb.DESCRIPTOR.message_types_by_name) == set(FIELDS)
    assert set(pb.DESCRIPTOR.enum_types_by_name) == set(ENUMS)
    file = descriptor_pb2.FileDescriptorProto.FromString(pb.DESCRIPTOR.serialized_pb)
    assert (file.syntax, list(file.dependency)) == ("proto3", [])
    (service,) = file.service
    assert service.name == "CassService"
    assert [
        (m.name, m.input_type, m.output_type, m.client_streaming, m.server_streaming)
        for m in service.method
    ] == [
        (name, f".cass.v1.{name}Request", f".cass.v1.{name}Response", streams, streams)
        for name, streams in (
            ("GenerateMask", False),
            ("StreamMasks", True),
            ("ComputeLoss", False),
            ("GetServerInfo", False),
        )
    ]


def test_a_loss_has_one_source_and_an_entry_one_result() -> None:
    for kind, name, fields in (
        (pb.ComputeLossRequest, "source", ["target", "mask"]),
        (pb.StreamMasksResponse, "result", ["masks", "error"]),
    ):
        assert [field.name for field in kind.DESCRIPTOR.oneofs_by_name[name].fields] == fields


def test_a_request_in_bytes() -> None:
    """Encoded by hand after the encoding guide of protobuf: tag = number << 3 | wire type."""
    request = pb.GenerateMaskRequest.FromString(
        b"\x0a\x15"  # 1: boxes, 21 bytes
        b"\x0a\x10\x00\x00\x80\x3f\x00\x00\x00\x40\x00\x00\x40\x40\x00\x00\x80\x40"  # 1 2 3 4
        b"\x12\x01\x01"  # counts: [1], packed
        b"\x12\x06\x0a\x01\x08\x12\x01\x10"  # 2: image_sizes: heights [8], widths [16]
        b"\x1a\x04\x08\x02\x10\x04"  # 3: a feature map of 2 x 4
        b"\x22\x02\x08\x01"  # 4: mask_spec: patch_size 1
        b"\x28\x02"  # 5: dtype: float16
        b"\x30\x01"  # 6: return_owner
    )
    assert np.frombuffer(request.boxes.xyxy, "<f4").tolist() == [1, 2, 3, 4]
    assert list(request.boxes.counts) == [1]
    assert (list(request.image_sizes.heights), list(request.image_sizes.widths)) == ([8], [16])
    assert [(m.height, m.width) for m in request.feature_maps] == [(2, 4)]
    assert request.mask_spec.patch_size == 1
    assert request.dtype == pb.DATA_TYPE_FLOAT16
    assert request.return_owner
    inputs = convert.mask_inputs(request)
    assert np.asarray(inputs.boxes.xyxy).tolist() == [[1, 2, 3, 4]]
    assert (inputs.sizes.tolist(), inputs.maps) == ([[8, 16]], [(2, 4)])
    assert (inputs.spec, inputs.dtype) == (MaskSpec(patch_size=1), "float16")
    assert inputs.return_owner


def test_a_tensor_in_bytes() -> None:
    message = (
        b"\x08\x05"  # 1: dtype: float64
        b"\x12\x02\x02\x02"  # 2: shape: [2, 2], packed
        b"\x1a\x20" + struct.pack("<4d", 1.5, -2, 0.25, 3)  # 3: data, 32 bytes
    )
    array, name = convert.tensor(pb.Tensor.FromString(message), "x", ["float64"])
    assert (array.tolist(), name) == ([[1.5, -2], [0.25, 3]], "float64")


@pytest.mark.parametrize(("message", "spec"), [("MaskSpec", MaskSpec()), ("LossSpec", LossSpec())])
def test_comments_state_the_defaults(message: str, spec: MaskSpec | LossSpec) -> None:
    text = re.search(rf"message {message} {{(.*?)\n}}", PROTO.read_text(), re.DOTALL)
    assert text is not None
    stated = re.findall(r"Default ([\w.]+)\.\n  (?:optional |repeated )?\w+ (\w+) =", text.group(1))
    assert {name for _, name in stated} == set(spec.__dataclass_fields__)
    for value, name in stated:
        actual = getattr(spec, name)
        assert value == (f"{actual:g}" if isinstance(actual, float) else str(actual).lower()), name


def test_generated_code_fits_the_stated_floor() -> None:
    """The generated modules name no runtime newer than the floor in pyproject.toml."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (floor,) = re.findall(r"protobuf>=([\d.]+),", " ".join(project["dependencies"]))
    assert floor == "4.21.6"
    # Since protobuf 4.26 (5.26 for Python) generated code checks its runtime's version.
    assert "ValidateProtobufRuntimeVersion" not in (PROTO.parent / "cass_pb2.py").read_text()
