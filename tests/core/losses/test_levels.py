"""Several levels in one loss, and logits in the forms that heads give."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from cass_client import CassClient
from cass_client.torch import RemoteCassLoss
from cass_core import BoxBatch, CassLoss, InvalidRequest, LossSpec, MaskLoss, generate_mask
from tests.core.support import reference
from tests.support.compare import same

BOXES: list[list[tuple[float, float, float, float]]] = [
    [(4, 4, 20, 20), (10, 2, 30, 12)],
    [],
    [(0, 8, 12, 31)],
]
SIZE, MAPS = (32, 32), [(8, 10), (4, 5), (2, 3)]
COUNTS = [80, 20, 6]
REDUCTIONS: Any = ("none", "mean", "sum", "per_object")
DTYPES = (torch.float64, torch.float32, torch.bfloat16)

every_reduction = pytest.mark.parametrize("reduction", REDUCTIONS)


def some_levels(dtype: torch.dtype = torch.float64) -> list[Tensor]:
    generator = torch.Generator().manual_seed(6)
    return [
        torch.randn((3, *cells), generator=generator, dtype=torch.float64).to(dtype)
        for cells in MAPS
    ]


def in_a_row(levels: list[Tensor]) -> Tensor:
    return torch.cat([level.flatten(1) for level in levels], dim=1)


def expected_losses(kind: str, levels: list[Tensor]) -> np.ndarray[Any, Any]:
    """The reference's loss of every patch ``[B, Σ n]``, on the reference's masks."""
    rows = []
    for logits, cells in zip(levels, MAPS, strict=True):
        target = reference.masks(BOXES, [SIZE] * 3, cells, {}).mask
        pairs = zip(logits.flatten().tolist(), target.ravel().tolist(), strict=True)
        rows.append(np.array([reference.loss(kind, *pair) for pair in pairs]).reshape(3, -1))
    return np.concatenate(rows, axis=1)


def from_boxes(spec: LossSpec, logits: Any) -> Any:
    return CassLoss(loss_spec=spec)(logits, BOXES, SIZE, MAPS)


def from_masks(spec: LossSpec, logits: Any) -> Any:
    boxes = [torch.tensor(b).reshape(-1, 4) for b in BOXES]
    return MaskLoss(spec)(logits, generate_mask(boxes, SIZE, MAPS), num_boxes=3)


def from_a_row_of_masks(spec: LossSpec, logits: Any) -> Any:
    boxes = [torch.tensor(b).reshape(-1, 4) for b in BOXES]
    return MaskLoss(spec)(logits, in_a_row(generate_mask(boxes, SIZE, MAPS)), num_boxes=3)


def from_a_server(spec: LossSpec, logits: Any) -> Any:
    return RemoteCassLoss(CassClient("local:"), loss_spec=spec)(logits, BOXES, SIZE, MAPS)


every_loss = pytest.mark.parametrize(
    "loss", [from_boxes, from_masks, from_a_row_of_masks, from_a_server]
)


@every_loss
@every_reduction
@pytest.mark.parametrize("form", ["row", "list", "row of one channel", "list of one channel"])
def test_value_and_gradient(loss: Any, reduction: Any, form: str) -> None:
    """Against the reference, whose gradient is a difference quotient."""
    levels = [level.requires_grad_() for level in some_levels()]
    forms: dict[str, Any] = {
        "row": in_a_row(levels),
        "list": levels,
        "row of one channel": in_a_row(levels)[..., None],
        "list of one channel": [level[:, None] for level in levels],
    }
    spec = LossSpec(kind="bce", reduction=reduction)
    value = loss(spec, forms[form])
    losses = expected_losses("bce", levels)
    divisor = {"none": 1, "sum": 1, "mean": 3 * sum(COUNTS), "per_object": 3}[reduction]
    if reduction == "none":
        given = forms[form] if isinstance(forms[form], list) else [forms[form]]
        found = value if isinstance(value, list) else [value]
        assert [part.shape for part in found] == [part.shape for part in given]
        rows = [part.detach().flatten(1) for part in found]
        np.testing.assert_allclose(torch.cat(rows, dim=1), losses, rtol=1e-5, atol=1e-7)
        value = sum(part.sum() for part in found)
    else:
        np.testing.assert_allclose(value.item(), losses.sum() / divisor, rtol=1e-6)
    value.backward()
    step = 1e-5
    above, below = (
        expected_losses("bce", [level.detach() + sign * step for level in levels])
        for sign in (1, -1)
    )
    grads = [level.grad for level in levels]
    assert all(grad is not None for grad in grads)
    np.testing.assert_allclose(
        torch.cat([grad.flatten(1) for grad in grads if grad is not None], dim=1),
        (above - below) / (2 * step * divisor),
        rtol=1e-4,
        atol=1e-7,
    )


@every_reduction
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_server_gives_what_the_process_does(
    address: str, reduction: Any, dtype: torch.dtype
) -> None:
    spec = LossSpec(reduction=reduction)
    found = []
    with CassClient(address, timeout=60) as client:
        for loss in (CassLoss(loss_spec=spec), RemoteCassLoss(client, loss_spec=spec)):
            row = in_a_row(some_levels(dtype)).requires_grad_()
            value = loss(row, BOXES, SIZE, MAPS)
            value.sum().backward()
            found.append([value.detach(), row.grad])
    same(*found)


FORMS: dict[str, Any] = {
    "[B, n]": lambda x: x.flatten(1),
    "[B, n, 1]": lambda x: x.flatten(1)[..., None],
    "[B, 1, h, w]": lambda x: x[:, None],
    "channels last": lambda x: x[:, None].contiguous(memory_format=torch.channels_last),
    "a channel of several": lambda x: torch.stack([x, -x], 1)[:, :1],
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("reduction", ["none", "mean"])
def test_forms_of_logits(form: str, reduction: Any) -> None:
    boxes = [torch.tensor(b).reshape(-1, 4) for b in BOXES]
    spec, cells = LossSpec(reduction=reduction), MAPS[0]
    losses: list[nn.Module] = [CassLoss(loss_spec=spec), RemoteCassLoss(CassClient("local:"))]
    losses[1].loss_spec = spec
    plain = some_levels(torch.float32)[0].requires_grad_()
    expected = losses[0](plain, BOXES, SIZE, cells)
    expected.sum().backward()
    for which in range(3):
        leaf = plain.detach().clone().requires_grad_()
        logits = FORMS[form](leaf)
        if which < 2:
            value = losses[which](logits, BOXES, SIZE, cells)
        else:
            value = MaskLoss(spec)(logits, generate_mask(boxes, SIZE, cells))
        assert value.shape == (logits.shape if reduction == "none" else ())
        same(value.detach().flatten(), expected.detach().flatten())
        value.sum().backward()
        same(leaf.grad, plain.grad)


def test_one_level_of_a_list() -> None:
    logits = some_levels()[0]
    expected = CassLoss()(logits, BOXES, SIZE, MAPS[0])
    for given in (logits, logits[:, None], [logits]):
        same(CassLoss()(given, BOXES, SIZE, MAPS[:1]), expected)


def test_in_one_graph() -> None:
    """Boxes that are a batch already, as they are for a CUDA graph."""
    row, batch = in_a_row(some_levels()), BoxBatch.from_list([torch.tensor(b).reshape(-1, 4)
                                                              for b in BOXES])  # fmt: skip
    loss = CassLoss()
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    grads = []
    for function in (loss, compiled):
        leaf = row.clone().requires_grad_()
        function(leaf, batch, SIZE, MAPS).backward()
        grads.append(leaf.grad)
    same(*grads)


LEVELS = some_levels()


@pytest.mark.parametrize(
    ("logits", "field", "reason"),
    [
        (LEVELS[:2], "logits", "have 2 levels, feature_map has 3"),
        ([], "logits", "must have at least one level"),
        (in_a_row(LEVELS)[:, 1:], "logits",
         "have the shape [3, 105]; of several levels they must be a list, or one row of [3, 106]: "
         "80 + 20 + 6 patches"),
        (LEVELS[0], "logits",
         "have the shape [3, 8, 10]; of several levels they must be a list, or one row of "
         "[3, 106]: 80 + 20 + 6 patches"),
        ([LEVELS[0], LEVELS[2], LEVELS[1]], "logits[1]",
         "have the shape [3, 2, 3], the grid is [3, 4, 5] or [3, 20]: feature_map (4, 5) with "
         "mask_spec.patch_size 1; these would fit mask_spec.patch_size 2"),
        ([*LEVELS[:2], None], "logits[2]", "must be a torch tensor, got NoneType"),
        ([*LEVELS[:2], LEVELS[2].int()], "logits[2]",
         "must have a dtype of float32, float16, bfloat16, float64, got int32"),
        ([*LEVELS[:2], LEVELS[2].float()], "logits[2]",
         "is torch.float32 on cpu, logits[0] torch.float64 on cpu"),
    ],
)  # fmt: skip
def test_bad_levels(logits: Any, field: str, reason: str) -> None:
    for loss in (from_boxes, from_a_server):
        with pytest.raises(InvalidRequest) as caught:
            loss(LossSpec(), logits)
        assert (caught.value.field, caught.value.reason) == (field, reason)


def test_a_list_beside_one_map() -> None:
    with pytest.raises(InvalidRequest, match="logits: have 3 levels, feature_map has 1"):
        CassLoss()(LEVELS, BOXES, SIZE, MAPS[0])


MASKS = [torch.zeros(3, *cells) for cells in MAPS]


@pytest.mark.parametrize(
    ("logits", "mask", "error"),
    [
        (LEVELS, MASKS[:2], "target: has 2 levels, the logits have 3"),
        (LEVELS, [*MASKS[:2], MASKS[0]],
         "target[2]: has the shape [3, 8, 10], the logits have [3, 2, 3]"),
        (LEVELS, [*MASKS[:2], MASKS[2].byte()],
         "target: must be arrays of one kind and dtype, on one device"),
        (in_a_row(LEVELS), [MASKS[0].numpy(), *MASKS[1:]],
         "target: must be arrays of one kind and dtype, on one device"),
        (in_a_row(LEVELS), MASKS[:2], "target: has the shape [3, 100], the logits have [3, 106]"),
        (in_a_row(LEVELS), [*MASKS[:2], MASKS[2][:2]],
         "target[2]: has 2 images, target[0] has 3"),
        (in_a_row(LEVELS), [*MASKS[:2], MASKS[2].to_sparse()],
         "target[2]: must be dense, got torch.sparse_coo"),
        ([*LEVELS[:2], LEVELS[2][:2]], MASKS, "logits[2]: has 2 images, logits[0] has 3"),
        (LEVELS, [], "target: must be of the same kind (NumPy or torch) as the logits"),
    ],
)  # fmt: skip
def test_bad_masks_of_levels(logits: Any, mask: Any, error: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        MaskLoss()(logits, mask)
    assert str(caught.value) == error
