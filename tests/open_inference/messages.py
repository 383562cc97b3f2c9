"""`python -m tests.open_inference.messages triton|kserve`: our messages beside theirs."""

from __future__ import annotations

import sys
from typing import Any


def compare(ours: Any, theirs: Any, *, all_are_there: bool) -> None:
    """Fails unless each field of ours is one of theirs, or where some are missing, those that are.

    Of theirs there may be more.
    """
    for field in ours.fields:
        other = theirs.fields_by_name.get(field.name)
        if other is None and not all_are_there:
            continue
        for attribute in ("number", "type", "is_repeated"):
            assert getattr(field, attribute) == getattr(other, attribute), field.full_name
    for nested in ours.nested_types:
        compare(nested, theirs.nested_types_by_name[nested.name], all_are_there=all_are_there)


def main(name: str) -> None:
    """Compares all messages, and the methods."""
    from cass.inference import grpc_predict_v2_pb2 as pb

    if name == "triton":
        from tritonclient.grpc import model_config_pb2, service_pb2

        files = [service_pb2.DESCRIPTOR, model_config_pb2.DESCRIPTOR]
    else:
        from kserve.protocol.grpc import grpc_predict_v2_pb2

        files = [grpc_predict_v2_pb2.DESCRIPTOR]
    messages = {key: kind for file in files for key, kind in file.message_types_by_name.items()}
    # KServe's file has neither Triton's extensions nor all kinds of parameters.
    is_triton = name == "triton"
    for key, ours in pb.DESCRIPTOR.message_types_by_name.items():
        if key in messages or is_triton:
            compare(ours, messages[key], all_are_there=is_triton)
    service = files[0].services_by_name["GRPCInferenceService"]
    methods = {method.name: method for method in service.methods}
    for method in pb.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods:
        if method.name in methods or is_triton:
            assert method.input_type.full_name == methods[method.name].input_type.full_name
            assert method.output_type.full_name == methods[method.name].output_type.full_name
    if is_triton:
        numbers = model_config_pb2.DESCRIPTOR.enum_types_by_name["DataType"].values_by_name
        assert {key: value.number for key, value in numbers.items()} == dict(pb.DataType.items())
    print("the same")


if __name__ == "__main__":
    main(sys.argv[1])
