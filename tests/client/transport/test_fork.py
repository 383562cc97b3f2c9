"""A used client in forked children: none of them meets its parent's connection."""

from __future__ import annotations

from tests.support.programs import printed

# One child after another, and the parent in between: what goes wrong with an inherited
# connection goes wrong only now and then.
PROGRAM = """
    import os, sys
    from cass_client import CassClient

    client = CassClient(sys.argv[1], timeout=60)
    client.info()
    failed = 0
    for _ in range(40):
        child = os.fork()
        if not child:
            code = 1
            try:
                client.info()
                client.close()
                client.info()
                code = 0
            finally:
                os._exit(code)
        failed += os.waitpid(child, 0)[1] != 0
        client.info()
    print(failed, "failed")
"""


def test_every_child_is_answered(address: str) -> None:
    assert printed("-c", PROGRAM, address) == "0 failed\n"
