"""Other packages of the same names in one process."""

from __future__ import annotations

from pathlib import Path

import pytest
from google.protobuf import descriptor_pb2

from cass.v1 import cass_pb2 as pb
from tests.support.programs import ended, printed

COPY = """
from google.protobuf import descriptor_pool
DESCRIPTOR = descriptor_pool.Default().AddSerializedFile({data!r})
"""


PROGRAM = """
import sys

sys.path.insert(0, {folder!r})
if {first!r}:
    import their_pb2
import cass_client
import their_pb2

with cass_client.CassClient({address!r}) as client:
    mask = client.generate_mask([[[0, 0, 32, 32]]], (64, 64), (8, 8))
print(mask.shape, their_pb2.DESCRIPTOR.package)
"""


@pytest.mark.parametrize(
    ("implementation", "file", "first"),
    [
        ("upb", "cass.proto", True),
        ("upb", "cass/v1/cass.proto", True),
        ("upb", "cass/v1/cass.proto", False),
        ("python", "cass/v1/cass.proto", True),
    ],
)
def test_a_file_and_messages_of_our_names(
    address: str, implementation: str, file: str, first: bool, tmp_path: Path
) -> None:
    """In a package that is imported before or after, with other fields in them."""
    copy = descriptor_pb2.FileDescriptorProto.FromString(pb.DESCRIPTOR.serialized_pb)
    copy.name = file
    copy.message_type[0].field.add(name="more", number=99, type=1, label=1)
    (tmp_path / "their_pb2.py").write_text(COPY.format(data=copy.SerializeToString()))
    env = {"PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION": implementation}
    program = PROGRAM.format(folder=str(tmp_path), first=first, address=address)
    assert printed("-W", "ignore", "-c", program, env=env) == "(1, 8, 8) cass.v1\n"


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
