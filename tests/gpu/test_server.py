"""The checks of a server on a GPU, against one on this machine's CPU."""

from __future__ import annotations

from collections.abc import Callable

import pytest

torch = pytest.importorskip("torch")

from tests.gpu import server  # noqa: E402
from tests.gpu.setup import Setup  # noqa: E402

CHECKS = (
    server.server_answers,
    server.server_speed,
    server.server_first_calls,
    server.server_faults,
)


@pytest.mark.timeout(400)
@pytest.mark.slow
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: str(check.__name__))
def test_its_checks_pass_on_a_cpu(check: Callable[[Setup], None], tmp_path: object) -> None:
    check(Setup(torch.device("cpu"), False, tmp_path))  # type: ignore[arg-type]
