"""Other packages of the same names in one process: the error says which, and what to do."""

from __future__ import annotations

from pathlib import Path

import pytest
from google.protobuf import descriptor_pb2

from cass.v1 import cass_pb2 as pb
from tests.support.programs import ended

COPY = """
from google.protobuf import descriptor_pool
DESCRIPTOR = descriptor_pool.Default().AddSerializedFile({data!r})
"""


@pytest.mark.parametrize(
    ("implementation", "file"),
    [
        ("upb", "cass.proto"),
        ("python", "cass.proto"),
        ("upb", "cass/v1/cass.proto"),  # where protobuf in Python takes the later one
    ],
)
def test_a_copy_of_the_messages(implementation: str, file: str, tmp_path: Path) -> None:
    copy = descriptor_pb2.FileDescriptorProto.FromString(pb.DESCRIPTOR.serialized_pb)
    copy.name = file
    copy.message_type[0].field.add(name="more", number=99, type=1, label=1)
    (tmp_path / "their_pb2.py").write_text(COPY.format(data=copy.SerializeToString()))
    env = {"PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION": implementation}
    program = f"import sys; sys.path.insert(0, {str(tmp_path)!r})\nimport their_pb2, cass_client"
    done = ended("-W", "ignore", "-c", program, env=env)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        f"ImportError: the module 'their_pb2', generated from a file {file!r}, has registered the "
        "messages of cass.v1 before, and protobuf takes them once a process: import "
        "cass.v1.cass_pb2 there instead of a copy"
    )


@pytest.mark.parametrize("name", ["cass.py", "cass/__init__.py"])
def test_another_package_called_cass(name: str, tmp_path: Path) -> None:
    other = tmp_path / name
    other.parent.mkdir(exist_ok=True)
    other.write_text("")
    program = f"import sys; sys.path.insert(0, {str(tmp_path)!r})\nimport cass_client"
    done = ended("-c", program)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        f"ImportError: {other} is imported as the package cass, which cass_client needs for its "
        "own: rename or uninstall the other one"
    )
