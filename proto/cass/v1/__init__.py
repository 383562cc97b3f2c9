"""Messages and service of version 1, generated from ``cass.proto``."""

from __future__ import annotations

import re
import sys

from google.protobuf import descriptor_pool


def _other_copy(error: TypeError) -> str:
    """The module, or at least the file, that has registered the same messages."""
    file = "cass/v1/cass.proto"
    if symbol := re.search(r"cass\.v1\.\w+", str(error)):
        file = descriptor_pool.Default().FindFileContainingSymbol(symbol[0]).name
    for name, module in list(sys.modules.items()):
        if getattr(getattr(module, "DESCRIPTOR", None), "name", None) == file:
            return f"the module {name!r}, generated from a file {file!r},"
    return f"a module generated from a file {file!r}"


try:
    from cass.v1 import cass_pb2 as cass_pb2
except TypeError as error:
    raise ImportError(
        f"{_other_copy(error)} has registered the messages of cass.v1 before, and protobuf takes "
        "them once a process: import cass.v1.cass_pb2 there instead of a copy"
    ) from error
