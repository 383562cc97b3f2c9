"""A CPU server, `local:` and `cass_core` give the same bits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cass_cli.coco import read_coco
from cass_client import CassClient
from cass_core import BoxBatch, LossSpec, MaskSpec, compute_loss, generate_mask
from cass_core.synthetic import street_boxes
from tests.support.compare import same

LOCAL = CassClient("local:")
SIZE, MAP = (96, 160), (12, 20)
BOXES = [*street_boxes(2, 6, image_size=SIZE, seed=1), None]
KINDS = ("mse", "bce", "focal", "cornernet", "quality_focal", "varifocal")


def test_conformance_cases(remote: CassClient, shared: Path) -> None:
    cases = json.loads((shared / "conformance" / "masks.json").read_text(encoding="utf-8"))
    cases = cases["cases"] if isinstance(cases, dict) else cases
    assert len(cases) == 120
    for case in cases:
        options = dict(case["options"])
        if isinstance(options.get("base_sigma"), list):
            options["base_sigma"] = tuple(options["base_sigma"])
        spec = MaskSpec(**options)
        arguments = (case["boxes"], case["images"], case["feature_map"], spec)
        owner = spec.merge == "max"
        expected = generate_mask(*arguments, return_owner=owner)
        same(remote.generate_mask(*arguments, return_owner=owner), expected)
        same(LOCAL.generate_mask(*arguments, return_owner=owner), expected)
        mask = expected[0] if owner else expected
        for _ in range(2):  # a server reads what it knows in another way
            same(remote.generate_mask(*arguments), mask)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "uint8"])
@pytest.mark.parametrize("owner", [False, True])
@pytest.mark.parametrize("feature_map", [MAP, [MAP, (6, 10), (1, 1)]])
def test_masks(remote: CassClient, dtype: str, owner: bool, feature_map: Any) -> None:
    spec = MaskSpec(patch_size=1)
    tensors = [None if b is None else torch.from_numpy(b) for b in BOXES]
    for boxes in [tensors] if dtype == "bfloat16" else [tensors, BOXES]:
        arguments: dict[str, Any] = {"dtype": dtype, "return_owner": owner}
        got = remote.generate_mask(boxes, SIZE, feature_map, spec, **arguments)
        same(got, generate_mask(boxes, SIZE, feature_map, spec, **arguments))


@pytest.mark.parametrize(
    ("boxes", "taught"), [([], 0), ([None], 0), ([[], None], 0), ([[[0, 0, 0, 0]]], 1)]
)
def test_few_boxes(remote: CassClient, boxes: Any, taught: int) -> None:
    """A point in the corner counts as one cell around it, whose edge is the first centre."""
    got = remote.generate_mask(boxes, SIZE, MAP)
    same(got, generate_mask(boxes, SIZE, MAP))
    assert got.shape == (len(boxes), 12, 20)
    assert np.count_nonzero(got) == taught == got[:1, 0, 0].sum()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("reduction", ["none", "mean", "sum", "per_object"])
def test_losses(remote: CassClient, kind: Any, reduction: Any) -> None:
    spec = LossSpec(kind=kind, reduction=reduction)
    target = generate_mask(BOXES, SIZE, MAP, MaskSpec(patch_size=1))
    logits = np.linspace(-9, 9, target.size, dtype=np.float32).reshape(target.shape)
    for dtype in ("float32", "float64", "float16", "bfloat16"):
        as_tensors = torch.from_numpy(logits).to(getattr(torch, dtype))
        pairs: list[tuple[Any, Any]] = [(as_tensors, torch.from_numpy(target))]
        if dtype != "bfloat16":
            pairs.append((as_tensors.numpy(), target))
        for s, y in pairs:
            expected = compute_loss(s, y, spec, num_boxes=12, return_grad=True)
            from_target = remote.compute_loss(s, y, loss_spec=spec, num_boxes=12, return_grad=True)
            from_boxes = remote.compute_loss(
                s,
                boxes=BOXES,
                image_size=SIZE,
                feature_map=MAP,
                mask_spec=MaskSpec(patch_size=1),
                loss_spec=spec,
                return_grad=True,
            )
            for got in (from_target, from_boxes):
                same([got.loss, got.sum, got.grad], [expected.loss, expected.sum, expected.grad])
                assert got.normalizer == expected.normalizer


@pytest.mark.parametrize(
    "name", ["carla/test.json", "cones/test.json", "ampelpilot/annotations.json"]
)
def test_real_boxes(remote: CassClient, shared: Path, name: str) -> None:
    coco = read_coco(shared / "data" / name)
    for first in range(0, min(len(coco.image_ids), 960), 240):
        last = min(first + 240, len(coco.image_ids))
        boxes: BoxBatch = coco.boxes(first, last)
        sizes = coco.sizes[first:last]
        got = remote.generate_mask(boxes, sizes, (48, 80))
        same(got, generate_mask(boxes, sizes, (48, 80)))
        assert got.max() == 1


def test_info(remote: CassClient) -> None:
    info = remote.info()
    assert info.device == "cpu"
    assert info.limits["images"] == 4096
