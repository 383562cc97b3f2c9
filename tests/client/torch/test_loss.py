"""RemoteCassLoss in training loops: it equals `CassLoss`, which computes in the process."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from cass_client import CassClient, InvalidRequest, LossSpec, MaskSpec
from cass_client.torch import RemoteCassLoss
from cass_core import BoxBatch, CassLoss
from tests.support.compare import same

pytestmark = pytest.mark.timeout(120)

BOXES: list[list[tuple[float, float, float, float]]] = [
    [(4, 4, 20, 20), (10, 2, 30, 12)],
    [],
    [(0, 8, 12, 31)],
]
PLACE: dict[str, Any] = {"image_size": (32, 32), "feature_map": (8, 10)}
PATCH = MaskSpec(patch_size=2)  # 4 x 5 patches
REDUCTIONS: Any = ("none", "mean", "sum", "per_object")
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)

every_reduction = pytest.mark.parametrize("reduction", REDUCTIONS)
every_dtype = pytest.mark.parametrize("dtype", DTYPES)


class Recording(CassClient):
    """A client that keeps whether a gradient was asked for."""

    def compute_loss(self, *args: Any, **options: Any) -> Any:
        self.asked.append(options["return_grad"])
        return super().compute_loss(*args, **options)

    @property
    def asked(self) -> list[bool]:
        found: list[bool] = self.__dict__.setdefault("kept", [])
        return found


@pytest.fixture
def client(address: str) -> Iterator[Recording]:
    with Recording(address) as client:
        yield client


def some_logits(dtype: torch.dtype = torch.float32, shape: Any = (3, 4, 5)) -> Tensor:
    generator = torch.Generator().manual_seed(6)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


def value_and_gradient(loss: nn.Module, logits: Tensor, **options: Any) -> list[Tensor]:
    """With an outer gradient that is not 1, and for ``none`` differs by patch."""
    leaf = logits.clone().requires_grad_()
    value = loss(leaf, BOXES, **{**PLACE, **options})
    outer = torch.arange(1.0, value.numel() + 1, dtype=value.dtype).reshape(value.shape) / 3
    value.backward(outer)
    assert leaf.grad is not None
    return [value.detach(), leaf.grad]


@every_reduction
@every_dtype
def test_equals_cass_loss(client: CassClient, dtype: torch.dtype, reduction: Any) -> None:
    specs = (PATCH, LossSpec(kind="quality_focal", reduction=reduction))
    remote, local = RemoteCassLoss(client, *specs), CassLoss(*specs)
    for logits in (some_logits(dtype), some_logits(dtype, (3, 20))):
        same(value_and_gradient(remote, logits), value_and_gradient(local, logits))


def test_equals_cass_loss_by_default(client: CassClient) -> None:
    remote, local = RemoteCassLoss(client), CassLoss()
    logits = some_logits(shape=(3, 8, 10))
    same(value_and_gradient(remote, logits), value_and_gradient(local, logits))
    assert list(remote.parameters()) == []
    assert remote.state_dict() == {}


def test_gradcheck(client: CassClient) -> None:
    loss = RemoteCassLoss(client, PATCH, LossSpec(kind="bce", reduction="none"))

    def squared(logits: Tensor) -> Tensor:
        found: Tensor = loss(logits, BOXES, **PLACE) ** 2
        return found

    assert torch.autograd.gradcheck(squared, some_logits(torch.float64).requires_grad_())


@pytest.mark.parametrize("num_boxes", [12, 0, 1.5, None])
def test_num_boxes_and_logits_that_are_not_contiguous(client: CassClient, num_boxes: Any) -> None:
    specs = (PATCH, LossSpec(reduction="per_object"))
    logits = some_logits(shape=(5, 4, 3)).transpose(0, 2)
    found = value_and_gradient(RemoteCassLoss(client, *specs), logits, num_boxes=num_boxes)
    local = value_and_gradient(CassLoss(*specs), logits.contiguous(), num_boxes=num_boxes)
    same(found, local)


def test_every_form_of_boxes_and_sizes(client: CassClient) -> None:
    expected = CassLoss(PATCH)(some_logits(), BOXES, **PLACE)
    arrays = [np.array(b, np.float32).reshape(-1, 4) for b in BOXES]
    tensors = [torch.from_numpy(a) for a in arrays]
    for boxes in (arrays, tensors, BoxBatch.from_list(arrays), BoxBatch.from_list(tensors)):
        for size in ((32, 32), [(32, 32)] * 3, torch.full((3, 2), 32)):
            value = RemoteCassLoss(client, PATCH)(some_logits(), boxes, size, (8, 10))
            same(value, expected)


def test_gradient_of_half_logits_does_not_underflow(client: CassClient) -> None:
    # The mean over 2^20 patches at logit -5 on a target of 0: each gradient is p / 2^20 = 6.4e-9,
    # which is 0 in float16; the loss scaler's 2^16 must be multiplied in first.
    logits = torch.full((1, 1024, 1024), -5, dtype=torch.float16, requires_grad=True)
    loss = RemoteCassLoss(client, MaskSpec(patch_size=1), LossSpec(kind="bce"))
    (loss(logits, [[]], (1024, 1024), (1024, 1024)) * 2**16).backward()
    assert logits.grad is not None
    p = 1 / (1 + np.exp(5))
    assert np.float16(p / 2**20) == 0
    assert (logits.grad == np.float16(p / 2**4).item()).all()


def test_a_gradient_is_asked_for_only_where_it_is_needed(client: Recording) -> None:
    loss = RemoteCassLoss(client, PATCH)
    needed = loss(some_logits().requires_grad_(), BOXES, **PLACE)
    assert needed.requires_grad
    others = [loss(some_logits(), BOXES, **PLACE)]
    for context in (torch.no_grad(), torch.inference_mode()):
        with context:
            others.append(loss(some_logits().requires_grad_(), BOXES, **PLACE))
    assert client.asked == [True, False, False, False]
    for value in others:
        assert not value.requires_grad
        assert value.item() == needed.item()


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_training_under_autocast_with_accumulated_gradients(
    client: CassClient, half: torch.dtype
) -> None:
    def train(loss: nn.Module) -> tuple[list[Tensor], Tensor]:
        torch.manual_seed(3)
        head = nn.Linear(6, 20)
        features = torch.randn(2, 3, 6)
        optimizer = torch.optim.SGD(head.parameters(), lr=0.5)
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**12)
        values = []
        for _ in range(2):
            for part in features:
                with torch.autocast("cpu", half):
                    logits = head(part)
                    assert logits.dtype == half
                    value = loss(logits, BOXES, **PLACE)
                assert value.dtype == torch.float32
                scaler.scale(value / 2).backward()
                values.append(value.detach())
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
        return values, head.weight.detach()

    found = train(RemoteCassLoss(client, PATCH))
    same(found, train(CassLoss(PATCH)))
    assert len({value.item() for value in found[0]}) == 4  # the weights have moved


# torch hides it where it looks at the value behind the call, but not from a filter of `error`.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_compiled(client: CassClient) -> None:
    head = nn.Linear(6, 20)
    features = torch.randn(3, 6)

    def step(loss: nn.Module) -> list[Tensor]:
        def forward(x: Tensor) -> Any:
            return loss(head(x), BOXES, **PLACE) * 2

        run = torch.compile(forward, backend="aot_eager") if loss is remote else forward
        head.zero_grad()
        value = run(features)
        value.backward()
        assert head.weight.grad is not None
        return [value.detach(), head.weight.grad.clone()]

    remote = RemoteCassLoss(client, PATCH)
    torch.testing.assert_close(step(remote), step(CassLoss(PATCH)))


@pytest.mark.parametrize("power", [1, 2])
def test_double_backward_is_refused(client: CassClient, power: int) -> None:
    logits = some_logits().requires_grad_()
    value = RemoteCassLoss(client, PATCH)(logits, BOXES, **PLACE) ** power
    (grad,) = torch.autograd.grad(value, logits, create_graph=True)
    with pytest.raises(RuntimeError, match="RemoteCassLoss can be differentiated only once"):
        grad.square().sum().backward()


@pytest.mark.filterwarnings("ignore:.torch.jit.script:DeprecationWarning")  # torch's own
def test_a_forward_mode_derivative_is_refused(client: CassClient) -> None:
    """It would be 0, as of a constant."""
    loss, logits = RemoteCassLoss(client, PATCH), some_logits()
    with pytest.raises(RuntimeError, match="RemoteCassLoss has no forward-mode derivative"):
        torch.func.jvp(lambda x: loss(x, BOXES, **PLACE), (logits,), (logits,))
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(logits, logits)
        with pytest.raises(RuntimeError, match="RemoteCassLoss has no forward-mode derivative"):
            loss(dual, BOXES, **PLACE)


def test_backward_twice_over_a_retained_graph(client: CassClient) -> None:
    logits = some_logits().requires_grad_()
    value = RemoteCassLoss(client, PATCH)(logits, BOXES, **PLACE)
    first, second = (
        torch.autograd.grad(value, logits, torch.tensor(outer), retain_graph=True)[0]
        for outer in (1.0, 4.0)
    )
    same(second, first * 4)


def test_copies_and_pickles(client: CassClient, address: str) -> None:
    loss = RemoteCassLoss(CassClient(address), PATCH, LossSpec(kind="varifocal"))
    expected = CassLoss(PATCH, LossSpec(kind="varifocal"))(some_logits(), BOXES, **PLACE)
    for other in (loss, copy.deepcopy(loss), pickle.loads(pickle.dumps(loss))):
        same(other(some_logits(), BOXES, **PLACE), expected)
        other.client.close()
    assert repr(loss).startswith(f"RemoteCassLoss(CassClient('{address}'")
    assert "MaskSpec(patch_size=2, " in repr(loss)
    assert "LossSpec(kind='varifocal', " in repr(loss)


@pytest.mark.parametrize(
    "change",
    [
        {"logits": np.zeros((3, 4, 5))},
        {"logits": torch.zeros(3, 4, 5, dtype=torch.int32)},
        {"logits": torch.zeros(2, 4, 5)},
        {"feature_map": []},
        {"image_size": (0, 32)},
        {"boxes": [[(4, 4, 2, 8)], [], []]},
        {"num_boxes": -1},
    ],
)
def test_errors_are_those_of_cass_loss(client: CassClient, change: dict[str, Any]) -> None:
    arguments = {"logits": torch.zeros(3, 4, 5), "boxes": BOXES, **PLACE} | change
    texts = []
    for loss in (RemoteCassLoss(client, PATCH), CassLoss(PATCH)):
        with pytest.raises(InvalidRequest) as caught:
            loss(**arguments)
        texts.append(str(caught.value))
    assert texts[0] == texts[1]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu(client: CassClient) -> None:
    loss = RemoteCassLoss(client, PATCH)
    logits = some_logits()
    found = value_and_gradient(loss, logits.cuda())
    assert {tensor.device.type for tensor in found} == {"cuda"}
    same([tensor.cpu() for tensor in found], value_and_gradient(loss, logits))
