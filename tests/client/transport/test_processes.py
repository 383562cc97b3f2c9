"""A client in forked children, and without heavy imports."""

from __future__ import annotations

import pytest

from tests.support.programs import printed

# One child after another, and the parent in between: what goes wrong with an inherited
# connection goes wrong only now and then.
FORKS = """
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


def test_every_forked_child_is_answered(address: str) -> None:
    """None of them meets its parent's connection, which goes on."""
    assert printed("-c", FORKS, address) == "0 failed\n"


NAMES = {"torch", "torch._dynamo", "numba", "triton", "matplotlib", "PIL", "typer"}
HEAVY = f"print(sorted({NAMES} & set(sys.modules)))"


@pytest.mark.slow
def test_import_is_light() -> None:
    assert printed("-c", f"import sys, cass_client; {HEAVY}") == "[]\n"
    torch_alone = "['torch']\n"  # and not its compiler, which takes as long once more
    assert printed("-c", f"import sys, cass_client.torch; {HEAVY}") == torch_alone


def test_without_torch() -> None:
    program = """
        import sys
        sys.modules["torch"] = None  # as good as not installed
        try:
            import cass_client.torch
        except ModuleNotFoundError as error:
            print(error.name, error, sep=": ")
    """
    assert printed("-c", program) == (
        "torch: cass_client.torch needs PyTorch: pip install torch, or with cass_core's losses "
        'too: pip install "cass[torch]"\n'
    )


def test_remote_calls_load_nothing_heavy(address: str) -> None:
    program = f"""
        import sys
        from cass_client import CassClient
        client = CassClient(sys.argv[1])
        client.generate_mask([[[8, 8, 24, 24]]], (32, 32), (4, 4))
        client.compute_loss([[[0.0]]], boxes=[None], image_size=(8, 8), feature_map=(1, 1),
                            return_grad=True)
        {HEAVY}
    """
    assert printed("-c", program, address) == "[]\n"


@pytest.mark.slow
@pytest.mark.parametrize("use", ["next(answers)", "for _ in answers: break", "iter(answers)"])
def test_a_stream_that_the_program_holds_at_its_end(address: str, use: str) -> None:
    """Is closed, and gRPC's threads with it, before Python stops them with locks in their hands."""
    program = f"""
        import atexit, sys, threading

        @atexit.register
        def show():  # after all that is registered later
            print([t.name for t in threading.enumerate() if t is not threading.main_thread()])

        from cass_client import CassClient, MaskRequest

        client = CassClient(sys.argv[1])
        large = MaskRequest([[[8, 8, 60, 60]]] * 4, (640, 640), [(160, 160), (80, 80)])
        answers = client.stream_masks([large] * 200, in_flight=16)
        {use}
    """
    for _ in range(4):
        assert printed("-c", program, address) == "[]\n"


def test_a_forked_child_that_ends_beside_its_parents_stream(address: str) -> None:
    program = """
        import os, sys
        from cass_client import CassClient, MaskRequest

        client = CassClient(sys.argv[1])
        answers = client.stream_masks([MaskRequest([None], (32, 32), (4, 4))] * 40)
        next(answers)
        child = os.fork()
        if not child:
            sys.exit(7)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        print(status, len(list(answers)))
    """
    assert printed("-c", program, address) == "7 39\n"
