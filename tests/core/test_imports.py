"""Which heavy modules an import or a call loads, each seen in a fresh interpreter."""

from __future__ import annotations

import pytest

from tests.support.programs import printed

HEAVY = (
    "torch", "torch._dynamo", "numba", "matplotlib", "triton", "grpc", "google.protobuf", "cass",
    "cass_client",
)  # fmt: skip


def loaded_after(code: str) -> set[str]:
    """The heavy modules that this code loads."""
    probe = f"{code}\nimport sys\nprint(*[m for m in {HEAVY!r} if m in sys.modules])"
    return set(printed("-c", probe).split())


def test_import_loads_nothing_heavy() -> None:
    assert loaded_after("import cass_core") == set()
    assert loaded_after("import cass_core.masks, cass_core.losses, cass_core.grid") == set()


MASK = "import cass_core; cass_core.generate_mask([[[1, 1, 5, 5]]], (8, 8), (8, 8))"
LOSS = "import cass_core; cass_core.compute_loss([[0.0]], [[1.0]])"


@pytest.mark.parametrize("code", [MASK, LOSS])
def test_numpy_calls_do_not_load_torch(code: str) -> None:
    assert loaded_after(code) == {"numba"}


def test_checks_load_nothing() -> None:
    code = (
        "import cass_core\n"
        "cass_core.MaskSpec(), cass_core.LossSpec()\n"
        "cass_core.BoxBatch.from_list([[[1, 1, 5, 5]]])\n"
        "try: cass_core.generate_mask([[[5, 1, 1, 5]]], (8, 8), (8, 8))\n"
        "except cass_core.InvalidRequest: pass"
    )
    assert loaded_after(code) == set()


def test_module_loads_torch() -> None:
    """And not its compiler, which takes three times as long to load."""
    assert loaded_after("import cass_core; cass_core.CassLoss") == {"torch"}


@pytest.mark.slow
def test_a_step_on_the_cpu_loads_the_loops_alone() -> None:
    code = (
        "import torch, cass_core\n"
        "logits = torch.zeros(1, 4, 4, requires_grad=True)\n"
        "spec = cass_core.MaskSpec(patch_size=1)\n"
        "cass_core.CassLoss(spec)(logits, [[[1, 1, 5, 5]]], (8, 8), (4, 4)).backward()"
    )
    assert loaded_after(code) == {"torch", "numba"}


def test_a_client_has_the_specs() -> None:
    code = (
        "import cass_client, cass_core\n"
        "specs = {name for name in cass_core.__all__ if name.endswith('Spec')}\n"
        "assert len(specs) == 3 and specs <= set(cass_client.__all__), specs\n"
        "assert all(hasattr(cass_client, name) for name in cass_client.__all__)"
    )
    loaded_after(code)


def test_names() -> None:
    code = (
        "import cass_core\n"
        "assert all(hasattr(cass_core, name) for name in cass_core.__all__)\n"
        "assert cass_core.CassLoss.__name__ == 'CassLoss'\n"
        "try: cass_core.nothing\n"
        "except AttributeError as error: "
        "assert str(error) == \"module 'cass_core' has no attribute 'nothing'\"\n"
        "else: raise AssertionError"
    )
    loaded_after(code)
