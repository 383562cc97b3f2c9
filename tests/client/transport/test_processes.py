"""A client in forked children, and without heavy imports."""

from __future__ import annotations

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
