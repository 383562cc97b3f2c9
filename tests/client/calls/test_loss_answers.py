"""Losses, facts and timings that are not what was requested; see `test_answers`."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from cass.v1 import cass_pb2 as pb
from cass_client import CassClient, FallbackWarning, LossSpec, ServerError, ServerInfo
from cass_core import compute_loss
from tests.client.support.edited_answers import (
    Edit,
    EditingServer,
    cut,
    replaced,
    with_async_client,
    without,
)
from tests.client.support.small_servers import LIMIT, tensor
from tests.support.compare import same

pytestmark = pytest.mark.timeout(120)


LOGITS = np.linspace(-4, 4, 2 * 6 * 10, dtype=np.float32).reshape(2, 6, 10)
TARGET = np.linspace(0, 1, 2 * 6 * 10, dtype=np.float32).reshape(2, 6, 10)


def loss_of(change: Callable[[pb.Tensor], Any], field: str = "loss") -> Edit:
    def edit(answer: Any) -> Any:
        change(getattr(answer, field))
        return answer

    return edit


def normalizer(value: float) -> Edit:
    def edit(answer: Any) -> Any:
        answer.normalizer = value
        return answer

    return edit


def as_grad(make: Callable[[Any], tuple[Any, str]]) -> Edit:
    return loss_of(replaced(make), "grad")


G = "grad: requested float32 [2, 6, 10], got "
WRONG_LOSSES: dict[str, tuple[str, Edit, str]] = {
    "not a message": ("mean", lambda _: b"\xff", "answer: is not a cass.v1.ComputeLossResponse"),
    "nothing": ("mean", lambda _: b"", "loss: requested float32 [], got dtype 0 []"),
    "a list of one": (
        "mean",
        loss_of(replaced(lambda a: (a.reshape(1), "float32"))),
        "loss: requested float32 [], got float32 [1]",
    ),
    "float64": (
        "sum",
        loss_of(replaced(lambda a: (a.astype(np.float64), "float64"))),
        "loss: requested float32 [], got float64 []",
    ),
    "no bytes": ("mean", loss_of(lambda m: m.ClearField("data")), "loss: has 0 bytes of data"),
    "reduced": (
        "none",
        loss_of(replaced(lambda a: (a.sum(), "float32"))),
        "loss: requested float32 [2, 6, 10], got float32 []",
    ),
    "not reduced": (
        "mean",
        loss_of(replaced(lambda a: (np.zeros((2, 6, 10), np.float32), "float32"))),
        "loss: requested float32 [], got float32 [2, 6, 10]",
    ),
    "flattened": (
        "none",
        loss_of(replaced(lambda a: (a.reshape(2, 60), "float32"))),
        "loss: requested float32 [2, 6, 10], got float32 [2, 60]",
    ),
    "no gradient": ("mean", without("grad"), "grad: is missing"),
    "a gradient of one image": (
        "mean",
        as_grad(lambda a: (a[:1], "float32")),
        f"{G}float32 [1, 6, 10]",
    ),
    "a gradient transposed": (
        "mean",
        as_grad(lambda a: (a.reshape(2, 10, 6), "float32")),
        f"{G}float32 [2, 10, 6]",
    ),
    "a scalar gradient": ("mean", as_grad(lambda a: (a[0, 0, 0], "float32")), f"{G}float32 []"),
    "a gradient of float64": (
        "none",
        as_grad(lambda a: (a.astype(np.float64), "float64")),
        f"{G}float64 [2, 6, 10]",
    ),
    "a gradient of uint8": (
        "mean",
        as_grad(lambda a: (a.astype(np.uint8), "uint8")),
        f"{G}uint8 [2, 6, 10]",
    ),
    "a short gradient": ("mean", loss_of(cut, "grad"), "grad: has 476 bytes of data"),
    "no normalizer": ("mean", normalizer(0), "normalizer: must be 120.0, got 0.0"),
    "another normalizer": ("per_object", normalizer(2), "normalizer: must be 7.0, got 2.0"),
    "normalizer NaN": ("sum", normalizer(float("nan")), "normalizer: must be 1.0, got nan"),
}


def loss_called(client: CassClient, *given: Any, **options: Any) -> Any:
    return client.compute_loss(*given, **options)


def loss_on_a_loop(client: CassClient, *given: Any, **options: Any) -> Any:
    return with_async_client(client, lambda c: c.compute_loss(*given, **options))


@pytest.mark.parametrize("way", [loss_called, loss_on_a_loop])
@pytest.mark.parametrize(("reduction", "edit", "text"), WRONG_LOSSES.values(), ids=WRONG_LOSSES)
def test_wrong_losses(
    editing: EditingServer, reduction: Any, edit: Edit, text: str, way: Any
) -> None:
    given = {"loss_spec": LossSpec(reduction=reduction), "num_boxes": 7, "return_grad": True}
    with CassClient(editing.address, timeout=LIMIT) as client:
        right = way(client, LOGITS, TARGET, **given)
        editing.edited(edit)
        start = re.escape(f"{editing.address}: the answer does not fit the request: {text}")
        with pytest.raises(ServerError, match=f"^{start}"):
            way(client, LOGITS, TARGET, **given)
    assert editing.calls == ["ComputeLoss"] * 2, "asked again"

    with (
        CassClient(editing.address, timeout=LIMIT, fallback="local") as client,
        pytest.warns(FallbackWarning, match=re.escape(text)),
    ):
        got = way(client, LOGITS, TARGET, **given)
    expected = compute_loss(
        LOGITS, TARGET, LossSpec(reduction=reduction), num_boxes=7, return_grad=True
    )
    for found in (right, got):
        same((found.loss, found.sum, found.grad), (expected.loss, expected.sum, expected.grad))
        assert found.normalizer == expected.normalizer


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_a_float32_gradient_of_other_logits(editing: EditingServer, dtype: str) -> None:
    logits = torch.from_numpy(LOGITS).to(getattr(torch, dtype))
    as_float32 = tensor(np.zeros((2, 6, 10), np.float32), "float32")
    editing.edited(loss_of(lambda m: m.CopyFrom(as_float32), "grad"))
    with (
        CassClient(editing.address, timeout=LIMIT) as client,
        pytest.raises(ServerError, match=rf"grad: requested {dtype} \[2, 6, 10\], got float32"),
    ):
        client.compute_loss(logits, torch.from_numpy(TARGET), return_grad=True)


def test_a_gradient_that_was_not_requested(editing: EditingServer) -> None:
    extra = tensor(np.zeros((2, 6, 10), np.float32), "float32")
    editing.edited(loss_of(lambda m: m.CopyFrom(extra), "grad"))
    with (
        CassClient(editing.address, timeout=LIMIT) as client,
        pytest.raises(ServerError, match=r"grad: was not requested$"),
    ):
        client.compute_loss(LOGITS, TARGET)


def test_nan_is_a_loss(editing: EditingServer) -> None:
    with CassClient(editing.address, timeout=LIMIT) as client:
        got = client.compute_loss(np.full_like(LOGITS, np.nan), TARGET, return_grad=True)
    assert np.isnan(got.loss)
    assert np.isnan(got.sum)
    assert np.isnan(got.grad).all()


def test_info_of_an_old_server_and_of_none(editing: EditingServer) -> None:
    with CassClient(editing.address, timeout=LIMIT, fallback="local") as client:
        assert client.info() == ServerInfo("", "", {}, ())
        editing.info = b"\xff"
        with pytest.raises(ServerError, match=r"is not a cass\.v1\.GetServerInfoResponse$"):
            client.info()


def test_a_profile(editing: EditingServer) -> None:
    editing.metadata = (("server-timing", "queue;dur=1.2.3, compute;dur=e, encode;dur=-"),)
    with CassClient(editing.address, timeout=LIMIT) as client:
        assert client.profile([None], (96, 160), (6, 10)).compute == 0
        editing.edited(without("masks"))
        with pytest.raises(ServerError, match="masks: requested 1, got 0"):
            client.profile([None], (96, 160), (6, 10))
