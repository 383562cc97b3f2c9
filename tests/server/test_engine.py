"""The engines agree with the core and with each other."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from cass_core import BoxBatch, CassError, InvalidRequest, LossSpec, MaskSpec, compute_loss
from cass_core.arrays import from_host
from cass_core.losses import LossInputs
from cass_core.masks import MaskInputs, wrap_masks
from cass_core.scenes import street_boxes
from cass_server.engine import CpuEngine, TorchEngine, make_engine

SIZE = (96, 160)
MAP = (12, 20)
BOXES = [*street_boxes(2, 6, image_size=SIZE, seed=3), np.empty((0, 4), np.float32)]
KINDS = ("mse", "bce", "focal", "cornernet", "quality_focal", "varifocal")


def mask_inputs(**changes: Any) -> MaskInputs:
    """Boxes as tensors, so that bfloat16 may be asked for; read-only where they are in use."""
    arguments: dict[str, Any] = {
        "feature_map": [MAP, (6, 10)],
        "spec": MaskSpec(patch_size=1),
        "dtype": "float32",
        "return_owner": False,
    } | changes
    boxes = BoxBatch.from_list([torch.from_numpy(b) for b in BOXES])
    return MaskInputs.check(boxes, SIZE, **arguments)


def numbers(inputs: MaskInputs, arrays: list[Any]) -> list[np.ndarray]:
    masks = wrap_masks(inputs, arrays, [])
    return [mask.double().numpy() for mask in masks]


@pytest.mark.parametrize(
    ("dtype", "step"), [("float32", 1e-6), ("float16", 5e-4), ("bfloat16", 4e-3), ("uint8", 1)]
)
def test_masks_agree(dtype: str, step: float) -> None:
    """To one step of the dtype: a value may be rounded to either side."""
    inputs = mask_inputs(dtype=dtype)
    ours, _ = CpuEngine().masks(inputs)
    theirs, owners = TorchEngine("cpu").masks(inputs)
    assert owners == []
    for a, b in zip(numbers(inputs, ours), numbers(inputs, theirs), strict=True):
        np.testing.assert_allclose(a, b, atol=step)
        assert a.max() > 0


def test_owners_agree() -> None:
    inputs = mask_inputs(return_owner=True)
    _, ours = CpuEngine().masks(inputs)
    _, theirs = TorchEngine("cpu").masks(inputs)
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(a, b)
        assert a.dtype == b.dtype == np.int32
        assert a.max() >= 1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("dtype", "rtol"),
    [("float32", 1e-5), ("float64", 1e-5), ("float16", 2e-3), ("bfloat16", 2e-2)],
)
def test_losses_agree(kind: Any, dtype: str, rtol: float) -> None:
    """From boxes; the gradient to a step of its dtype. Targets are float32 in either engine."""
    logits = torch.linspace(-6, 6, 3 * 12 * 20).reshape(3, *MAP).to(getattr(torch, dtype))
    mask = mask_inputs(feature_map=MAP)
    inputs = LossInputs.check(logits, None, LossSpec(kind=kind), None, True, mask)
    ours, theirs = CpuEngine().losses(inputs), TorchEngine("cpu").losses(inputs)
    assert ours.loss.dtype == theirs.loss.dtype
    np.testing.assert_allclose(ours.loss, theirs.loss, rtol=1e-5)
    np.testing.assert_allclose(ours.total, theirs.total, rtol=1e-5)
    assert ours.normalizer == theirs.normalizer == logits.numel()
    assert ours.grad is not None
    assert theirs.grad is not None
    a, b = (
        from_host(grad, dtype, as_tensor=True).double().numpy()  # type: ignore[union-attr]
        for grad in (ours.grad, theirs.grad)
    )
    np.testing.assert_allclose(a, b, rtol=rtol, atol=1e-7)


@pytest.mark.parametrize("engine", [CpuEngine(), TorchEngine("cpu")])
def test_target_as_given(engine: CpuEngine | TorchEngine) -> None:
    logits = np.linspace(-3, 3, 8, dtype=np.float32).reshape(2, 4)
    target = np.array([[0, 51, 102, 153], [204, 255, 0, 0]], np.uint8)
    spec = LossSpec(kind="bce", reduction="none")
    result = engine.losses(LossInputs.check(logits, target, spec, None, False))
    expected = compute_loss(logits, target / np.float64(255), spec)
    np.testing.assert_allclose(result.loss, expected.loss, rtol=1e-6)
    assert result.grad is None
    bad = LossInputs.check(logits, target.astype(np.float32), spec, None, False)
    with pytest.raises(InvalidRequest, match=r"^target"):
        engine.losses(bad)


def test_make_engine() -> None:
    assert isinstance(make_engine("cpu"), CpuEngine)
    found = torch.cuda.device_count() if torch.cuda.is_available() else 0
    assert make_engine("auto").device == ("cuda:0" if found else "cpu")
    for device in ("gpu", "cpu:0", "cudax", "CPU", ""):
        with pytest.raises(CassError, match=r"^--device must be auto, cpu, cuda or cuda:N, got"):
            make_engine(device)
    for device in (f"cuda:{found}", "cuda:x", "cuda:-1", "cuda:99"):
        with pytest.raises(CassError, match=rf"^--device {device}: torch finds {found} CUDA"):
            make_engine(device)
