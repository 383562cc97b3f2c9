"""What all tests share: the hypothesis profile and the folder of reference answers."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# Triton reads it when the kernels are imported: they then run on the CPU.
os.environ["TRITON_INTERPRET"] = "1"

# Shared machines stall: no deadline. Under CI the examples are the same in every run.
settings.register_profile(
    "default",
    deadline=None,
    derandomize="CI" in os.environ,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("default")

_SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with the conformance answers and real data, beside the checkout."""
    if not _SHARED.is_dir():
        pytest.skip("needs ../shared (conformance answers and data sets)")
    return _SHARED
