"""The CPU engine computes what a local call does; choosing a device."""

from __future__ import annotations

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
from cass_core.arrays import storage_dtype
from cass_core.inputs import LossInputs, MaskInputs
from cass_core.results import wrap_masks
from cass_core.synthetic import street_boxes
from cass_server.engines.base import CpuEngine
from cass_server.engines.choice import devices_of, make_engine
from tests.support.compare import same

SIZE = (96, 160)
MAPS = [(12, 20), (6, 10)]
BOXES = [*street_boxes(2, 6, image_size=SIZE, seed=3), np.empty((0, 4), np.float32)]


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "uint8"])
@pytest.mark.parametrize("spec", [MaskSpec(patch_size=1), MaskSpec.baseline()])
def test_masks_are_the_cores(dtype: str, spec: MaskSpec) -> None:
    boxes = BoxBatch.from_list([torch.from_numpy(b) for b in BOXES])  # for bfloat16
    inputs = MaskInputs.check(boxes, SIZE, MAPS, spec, dtype, True)
    # What lay there before must not matter.
    masks = [np.full(shape, 77, storage_dtype(dtype)) for shape in inputs.shapes()]
    owners = [np.full(shape, 77, np.int32) for shape in inputs.shapes()]
    CpuEngine().masks(inputs, masks, owners)
    core = generate_mask(boxes, SIZE, MAPS, spec, dtype=dtype, return_owner=True)
    same(wrap_masks(inputs, masks, owners), core)


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
@pytest.mark.parametrize("reduction", ["none", "per_object"])
def test_losses_are_the_cores(dtype: str, reduction: Any) -> None:
    logits = torch.linspace(-6, 6, 3 * 12 * 20).reshape(3, 12, 20).to(getattr(torch, dtype))
    target = (torch.arange(3 * 12 * 20) % 256).reshape(3, 12, 20).to(torch.uint8)
    spec = LossSpec(reduction=reduction)
    inputs = LossInputs.check(logits, target, spec, 7, True)
    result = CpuEngine().losses(inputs)
    ours = result.wrap(logits, dtype)
    core = compute_loss(logits, target, spec, num_boxes=7, return_grad=True)
    for a, b in ((ours.loss, core.loss), (ours.sum, core.sum), (ours.grad, core.grad)):
        same(a, b)


def test_a_summed_mask_above_1_is_refused_by_what_was_asked() -> None:
    """The caller gave no target that an error could name."""
    twice = BoxBatch.from_list([np.array([[16, 16, 64, 64]] * 2, np.float32)])
    spec = MaskSpec(patch_size=1, merge="sum")
    mask = MaskInputs.check(twice, SIZE, MAPS[0], spec, "float32", False)
    logits = np.zeros((1, *MAPS[0]), np.float32)
    inputs = LossInputs.check(logits, None, LossSpec(), None, False, mask)
    with pytest.raises(InvalidRequest) as caught:
        CpuEngine().losses(inputs)
    assert caught.value.field == "mask_spec.merge"


def test_make_engine() -> None:
    assert isinstance(make_engine("cpu"), CpuEngine)
    found = torch.cuda.device_count() if torch.cuda.is_available() else 0
    assert make_engine("auto").device == ("cuda:0" if found else "cpu")
    for device in ("gpu", "cpu:0", "cudax", "CPU", ""):
        with pytest.raises(CassError, match=r"^device must be auto, cpu, cuda or cuda:N, got"):
            make_engine(device)
    if found:
        assert make_engine("cuda").device == make_engine("cuda:0").device == "cuda:0"
    beyond = () if found else ("cuda", "cuda:0")
    for device in (*beyond, f"cuda:{found}", "cuda:x", "cuda:-1", "cuda:99"):
        with pytest.raises(CassError, match=rf"^device {device}: torch finds {found} CUDA"):
            make_engine(device)


def test_make_engine_without_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert isinstance(make_engine("auto"), CpuEngine)
    with pytest.raises(CassError, match=r"^device cuda: torch finds 0 CUDA devices"):
        make_engine("cuda")


@pytest.mark.parametrize(
    ("choice", "devices"),
    [
        ("auto", ["cuda:0", "cuda:1", "cuda:2"]),
        ("cuda", ["cuda:0", "cuda:1", "cuda:2"]),
        ("cuda:1", ["cuda:1"]),
        ("cpu", ["cpu"]),
    ],
)
def test_all_gpus_are_for_workers(
    monkeypatch: pytest.MonkeyPatch, choice: str, devices: list[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    assert devices_of(choice) == devices
    with pytest.raises(CassError, match=r"^device cuda:3: torch finds 3 CUDA devices"):
        devices_of("cuda:3")
