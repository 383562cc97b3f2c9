"""A client in threads, forked children, spawned processes, and without heavy imports."""

from __future__ import annotations

import textwrap
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from cass_client import CassClient, MaskSpec
from cass_core import generate_mask
from cass_core.synthetic import street_boxes
from tests.support.programs import printed

SPEC = MaskSpec(patch_size=1)
SIZE, MAP = (96, 160), (12, 20)


def run(program: str, *arguments: str) -> str:
    return printed("-c", program, *arguments).strip()


def test_threads(address: str) -> None:
    batches = [street_boxes(2, 5, image_size=SIZE, seed=seed) for seed in range(64)]
    with CassClient(address) as client, ThreadPoolExecutor(8) as pool:
        masks = list(pool.map(lambda boxes: client.generate_mask(boxes, SIZE, MAP, SPEC), batches))
    for boxes, mask in zip(batches, masks, strict=True):
        np.testing.assert_array_equal(mask, generate_mask(boxes, SIZE, MAP, SPEC))


USE = """
    import sys
    from cass_client import CassClient
    client = CassClient(sys.argv[1])
    def use(_=None):
        return client.generate_mask([[[8, 8, 24, 24]]], (32, 32), (4, 4)).shape
"""


def test_forked_children(address: str) -> None:
    """Each opens a channel of its own, and the parent's goes on."""
    program = textwrap.dedent(USE) + textwrap.dedent("""
        import multiprocessing
        use()
        with multiprocessing.get_context("fork").Pool(3) as pool:
            assert pool.map(use, range(9)) == [(1, 4, 4)] * 9
        print(use())
    """)
    assert run(program, address) == "(1, 4, 4)"


def test_spawned_process(address: str) -> None:
    program = """
        import multiprocessing, sys
        from cass_client import CassClient
        if __name__ == "__main__":
            client = CassClient(sys.argv[1], timeout=50)
            client.info()
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                print(pool.apply(client.generate_mask, ([None], (8, 8), (2, 2))).shape)
    """
    assert run(program, address) == "(1, 2, 2)"


HEAVY = "print(sorted({'torch', 'numba', 'matplotlib', 'PIL', 'typer'} & set(sys.modules)))"


def test_import_is_light() -> None:
    assert run(f"import sys, cass_client; {HEAVY}") == "[]"


def test_remote_calls_load_nothing_heavy(address: str) -> None:
    program = textwrap.dedent(USE) + textwrap.dedent(f"""
        use()
        client.compute_loss([[[0.0]]], boxes=[None], image_size=(8, 8), feature_map=(1, 1),
                            return_grad=True)
        {HEAVY}
    """)
    assert run(program, address) == "[]"
