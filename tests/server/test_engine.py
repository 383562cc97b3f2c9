"""The engines agree with the core and with each other."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from cass_core import (
    BoxBatch,
    CassError,
    InvalidRequest,
    LossSpec,
    MaskSpec,
    compute_loss,
    generate_mask,
)
from cass_core.arrays import from_host
from cass_core.losses import HostLoss, LossInputs
from cass_core.masks import MaskInputs, wrap_masks
from cass_core.scenes import street_boxes
from cass_server.engine import CpuEngine, CudaEngine, make_engine
from tests.compare import same
from tests.interpreted import kernels

pytest.importorskip("triton", reason="needs Triton, which has wheels for Linux")

SIZE = (96, 160)
MAP = (12, 20)
BOXES = [*street_boxes(2, 6, image_size=SIZE, seed=3), np.empty((0, 4), np.float32)]
KINDS = ("mse", "bce", "focal", "cornernet", "quality_focal", "varifocal")


@pytest.fixture(autouse=True)
def _kernels_on_the_cpu() -> Iterator[None]:
    """`CudaEngine("cpu")` runs the GPU's kernels through the interpreter."""
    with kernels():
        yield


def box_batch() -> BoxBatch:
    """Boxes as tensors, so that bfloat16 may be asked for."""
    return BoxBatch.from_list([torch.from_numpy(b) for b in BOXES])


def mask_inputs(**changes: Any) -> MaskInputs:
    arguments: dict[str, Any] = {
        "feature_map": [MAP, (6, 10)],
        "spec": MaskSpec(patch_size=1),
        "dtype": "float32",
        "return_owner": False,
    } | changes
    return MaskInputs.check(box_batch(), SIZE, **arguments)


def ramp(dtype: str) -> torch.Tensor:
    """Logits for MAP, from unlikely to likely."""
    return torch.linspace(-6, 6, 3 * 12 * 20).reshape(3, *MAP).to(getattr(torch, dtype))


def targets(dtype: str) -> torch.Tensor:
    """Values in [0, 1], both ends among them, in the shape of `ramp`."""
    steps = (torch.arange(3 * 12 * 20) % 256).reshape(3, *MAP)
    return steps.to(torch.uint8) if dtype == "uint8" else (steps / 255).to(getattr(torch, dtype))


def numbers(inputs: MaskInputs, arrays: list[Any]) -> list[np.ndarray]:
    masks = wrap_masks(inputs, arrays, [])
    return [mask.double().numpy() for mask in masks]


def gradients(dtype: str, *results: HostLoss) -> list[np.ndarray]:
    values: list[Any] = [
        from_host(r.grad, dtype, as_tensor=True) for r in results if r.grad is not None
    ]
    assert len(values) == len(results)
    return [value.double().numpy() for value in values]


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "uint8"])
@pytest.mark.parametrize("spec", [MaskSpec(patch_size=1), MaskSpec.baseline()])
def test_cpu_masks_are_the_cores(dtype: str, spec: MaskSpec) -> None:
    maps = [MAP, (6, 10)]
    inputs = mask_inputs(dtype=dtype, spec=spec, return_owner=True)
    answer = wrap_masks(inputs, *CpuEngine().masks(inputs))
    same(answer, generate_mask(box_batch(), SIZE, maps, spec, dtype=dtype, return_owner=True))


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
@pytest.mark.parametrize("reduction", ["none", "per_object"])
def test_cpu_losses_are_the_cores(dtype: str, reduction: Any) -> None:
    spec = LossSpec(reduction=reduction)
    inputs = LossInputs.check(ramp(dtype), targets("uint8"), spec, 7, True)
    ours = CpuEngine().losses(inputs).wrap(ramp(dtype), dtype)
    core = compute_loss(ramp(dtype), targets("uint8"), spec, num_boxes=7, return_grad=True)
    for a, b in ((ours.loss, core.loss), (ours.sum, core.sum), (ours.grad, core.grad)):
        same(a, b)
    assert ours.normalizer == core.normalizer == (7 if reduction == "per_object" else 1)


@pytest.mark.parametrize(
    ("dtype", "step"), [("float32", 1e-6), ("float16", 5e-4), ("bfloat16", 4e-3), ("uint8", 1)]
)
def test_masks_agree(dtype: str, step: float) -> None:
    """To one step of the dtype: a value may be rounded to either side."""
    inputs = mask_inputs(dtype=dtype)
    ours, _ = CpuEngine().masks(inputs)
    theirs, owners = CudaEngine("cpu").masks(inputs)
    assert owners == []
    for a, b in zip(numbers(inputs, ours), numbers(inputs, theirs), strict=True):
        np.testing.assert_allclose(a, b, atol=step)
        assert a.max() > 0


def test_owners_agree() -> None:
    inputs = mask_inputs(return_owner=True)
    _, ours = CpuEngine().masks(inputs)
    _, theirs = CudaEngine("cpu").masks(inputs)
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
    mask = mask_inputs(feature_map=MAP)
    inputs = LossInputs.check(ramp(dtype), None, LossSpec(kind=kind), None, True, mask)
    ours, theirs = CpuEngine().losses(inputs), CudaEngine("cpu").losses(inputs)
    assert ours.loss.dtype == theirs.loss.dtype
    np.testing.assert_allclose(ours.loss, theirs.loss, rtol=1e-6)
    np.testing.assert_allclose(ours.total, theirs.total, rtol=1e-6)
    assert ours.normalizer == theirs.normalizer == 3 * 12 * 20
    np.testing.assert_allclose(*gradients(dtype, ours, theirs), rtol=rtol, atol=1e-7)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "float64", "uint8"])
def test_losses_of_targets_agree(kind: Any, dtype: str) -> None:
    """Patch by patch, with the gradient of the sum."""
    spec = LossSpec(kind=kind, reduction="none")
    inputs = LossInputs.check(ramp("float32"), targets(dtype), spec, None, True)
    ours, theirs = CpuEngine().losses(inputs), CudaEngine("cpu").losses(inputs)
    assert ours.loss.shape == theirs.loss.shape == (3, *MAP)
    np.testing.assert_allclose(ours.loss, theirs.loss, rtol=1e-6, atol=1e-6)
    assert np.ptp(ours.loss) > 0
    np.testing.assert_allclose(*gradients("float32", ours, theirs), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("reduction", "normalizer"), [("sum", 1), ("mean", 3 * 12 * 20), ("per_object", 12)]
)
def test_reductions_agree(reduction: Any, normalizer: int) -> None:
    """Per object by the number of boxes: 6 in each of two images."""
    spec = LossSpec(reduction=reduction)
    inputs = LossInputs.check(ramp("float64"), None, spec, None, True, mask_inputs(feature_map=MAP))
    ours, theirs = CpuEngine().losses(inputs), CudaEngine("cpu").losses(inputs)
    assert ours.normalizer == theirs.normalizer == normalizer
    np.testing.assert_allclose(ours.loss, ours.total / normalizer, rtol=1e-12)
    np.testing.assert_allclose(theirs.loss, ours.loss, rtol=1e-6)
    np.testing.assert_allclose(*gradients("float64", ours, theirs), rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("engine", [CpuEngine(), CudaEngine("cpu")])
def test_a_summed_mask_above_1_is_refused_by_what_was_asked(
    engine: CpuEngine | CudaEngine,
) -> None:
    """The caller gave no target that an error could name."""
    twice = BoxBatch.from_list([np.array([[16, 16, 64, 64]] * 2, np.float32)])
    spec = MaskSpec(patch_size=1, merge="sum")
    mask = MaskInputs.check(twice, SIZE, MAP, spec, "float32", False)
    logits = np.zeros((1, *MAP), np.float32)
    with pytest.raises(InvalidRequest) as caught:
        engine.losses(LossInputs.check(logits, None, LossSpec(), None, False, mask))
    assert caught.value.field == "mask_spec.merge"


@pytest.mark.parametrize("engine", [CpuEngine(), CudaEngine("cpu")])
def test_target_as_given(engine: CpuEngine | CudaEngine) -> None:
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
    if found:
        assert make_engine("cuda").device == make_engine("cuda:0").device == "cuda:0"
    beyond = () if found else ("cuda", "cuda:0")
    for device in (*beyond, f"cuda:{found}", "cuda:x", "cuda:-1", "cuda:99"):
        with pytest.raises(CassError, match=rf"^--device {device}: torch finds {found} CUDA"):
            make_engine(device)


def test_make_engine_without_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert isinstance(make_engine("auto"), CpuEngine)
    with pytest.raises(CassError, match=r"^--device cuda: torch finds 0 CUDA devices"):
        make_engine("cuda")
