"""What `make gpu-check` checks: the kernels against answers that come from elsewhere.

Each check is a function that raises an AssertionError. They need NumPy, torch and Triton alone, and
give every tensor to the kernels, on a GPU or, where there is none, in Triton's interpreter.
"""

from __future__ import annotations

import importlib.util
import itertools
import json
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch

from cass_core import BoxBatch, CassLoss, LossSpec, MaskSpec, WeightSpec
from cass_core.specs import LossKind, Reduction
from cass_core.synthetic import street_boxes
from tests.gpu.setup import (
    ALIGNED,
    CELLS,
    FINE,
    HALVES,
    SIZE,
    Setup,
    Skipped,
    close,
    host,
    same,
)

# Against the answers of an independent program.


def mask_conformance(setup: Setup) -> None:
    """Values and owners of the conformance cases, where float32 must agree with float64."""
    cases, answers = _conformance(setup, "masks")
    for n in setup.some(range(len(cases)), 12):
        case, name = cases[n], f"case {n}"
        spec = MaskSpec(**case["options"])
        safe, cells = answers[f"safe_{n:03}"], tuple(case["feature_map"])
        (mask,) = setup.masks(case["boxes"], case["images"], [cells], spec)
        close(host(mask)[safe], answers[f"mask_{n:03}"][safe], 0, 1e-5, name)
        if spec.merge == "max":
            beside, owner = setup.owned(case["boxes"], case["images"], cells, spec)
            same(beside, mask, f"{name}, mask beside owners")
            expected = answers[f"owner_{n:03}"].astype(np.int32)
            same(host(owner)[safe], expected[safe], f"{name}, owners")


def mask_dtypes(setup: Setup) -> None:
    """float16, bfloat16 and uint8 masks of the conformance cases are the float32 ones, rounded."""
    cases, _ = _conformance(setup, "masks")
    for n in setup.some(range(len(cases)), 3):
        case, spec = cases[n], MaskSpec(**cases[n]["options"])
        given = case["boxes"], case["images"], [tuple(case["feature_map"])], spec
        (wide,) = setup.masks(*given)
        for dtype, half in HALVES.items():
            if setup.native or dtype == "float16":  # the interpreter cuts bfloat16's bits off
                (mask,) = setup.masks(*given, dtype)
                same(mask, wide.to(half), f"case {n}, {dtype}")
        if spec.merge != "sum":
            (mask,) = setup.masks(*given, "uint8")
            same(mask, np.rint(host(wide) * np.float32(255)).astype(np.uint8), f"case {n}, uint8")


def loss_conformance(setup: Setup) -> None:
    """Losses and gradients of the conformance cases, float32 and float64."""
    cases, answers = _conformance(setup, "losses")
    # Relative and absolute, of loss and gradient; the stored gradients are central differences.
    within = {np.float32: (1e-5, 1e-6, 1e-4, 1e-6), np.float64: (1e-11, 1e-13, 1e-7, 1e-8)}
    for n, case in enumerate(cases):
        spec = LossSpec(kind=case["kind"], **case["parameters"], reduction="none")
        loss, grad = answers[f"loss_{n:02}"], answers[f"grad_{n:02}"]
        for dtype, (loss_rtol, loss_atol, grad_rtol, grad_atol) in within.items():
            name = f"case {n}, {spec.kind}, {dtype.__name__}"
            logits, target = (answers[f"{k}_{n:02}"].astype(dtype) for k in ("logits", "target"))
            found = setup.loss(setup.tensor(logits), setup.tensor(target), spec)
            close(found.loss, loss, loss_rtol, loss_atol, name)
            close(found.grad, grad, grad_rtol, grad_atol, f"{name}, gradient")
            close(found.sum, loss.sum(), loss_rtol, 0, f"{name}, sum")


def weight_conformance(setup: Setup) -> None:
    """Weights, losses and gradients of the conformance cases of regions, from boxes."""
    cases, answers = _conformance(setup, "regions")
    for n in setup.some(range(len(cases)), 3):
        case, name = cases[n], f"case {n}"
        spec = MaskSpec(**case["options"], level_ranges=case["level_ranges"])
        weight_spec = WeightSpec(case["balance"], case["background_weight"])
        regions = {key: case[key] for key in ("valid_region", "ignore", "box_weights")}
        levels = range(len(case["feature_maps"]))
        logits = [setup.tensor(answers[f"logits_{n:03}_{i}"]).float() for i in levels]
        logits = [level.requires_grad_() for level in logits]
        loss = CassLoss(spec, LossSpec(**case["loss"]), weight_spec)
        scene = setup.boxes(case["boxes"]), tuple(case["image_size"]), case["feature_maps"]
        value = loss(logits, *scene, **regions)
        value.backward()
        if case["exact"]:
            close(value, case["value"], 1e-4, 1e-6, name)
            for i, level in enumerate(logits):
                grad, weights = answers[f"grad_{n:03}_{i}"], answers[f"weights_{n:03}_{i}"]
                close(level.grad, grad, 1e-4, 1e-6, f"{name}, gradient")
                same(host(level.grad)[weights == 0], 0 * host(level.grad)[weights == 0], name)


def _conformance(setup: Setup, name: str) -> tuple[list[dict[str, Any]], Any]:
    folder = setup.shared / "conformance"
    if not folder.is_dir():
        raise Skipped(f"no folder {folder}")
    return json.loads((folder / f"{name}.json").read_text()), np.load(folder / f"{name}.npz")


def random_scenes(setup: Setup) -> None:
    """Masks of random boxes under random options against the slow reading of the formulas."""
    path = Path(__file__).parents[1] / "core" / "support" / "reference.py"
    module_spec = importlib.util.spec_from_file_location("cass_reference", path)
    assert module_spec is not None
    assert module_spec.loader is not None
    reference = importlib.util.module_from_spec(module_spec)
    module_spec.loader.exec_module(reference)
    for seed in setup.some(range(100), 6):
        rng = np.random.default_rng(seed)
        boxes, sizes = _scene(rng, int(rng.integers(1, 4)))
        cells = int(rng.integers(1, 40)), int(rng.integers(1, 40))
        if seed % 2:  # kernels are compiled apart for columns that are a multiple of 16
            cells = cells[0], 16 * (1 + cells[1] // 16)
        options = _options(rng)
        answer = reference.masks(boxes, sizes, cells, options)
        spec = MaskSpec(**options)
        (mask,) = setup.masks(boxes, sizes, [cells], spec)
        close(host(mask)[answer.safe], answer.mask[answer.safe], 0, 1e-5, f"seed {seed}")
        if spec.merge == "max":
            safe = answer.owner_safe
            owner = host(setup.owned(boxes, sizes, cells, spec)[1])
            same(owner[safe], answer.owner[safe].astype(np.int32), f"seed {seed}, owners")


def _scene(rng: np.random.Generator, images: int) -> tuple[list[Any], list[tuple[int, int]]]:
    """Boxes of all sizes, some beyond the edge, in images of several sizes."""
    sizes = [(int(h), int(w)) for h, w in rng.integers(20, 800, (images, 2))]
    scene = []
    for height, width in sizes:
        whole = np.array([width, height])
        count = int(rng.integers(0, 40))
        centre = rng.uniform(-0.1, 1.1, (count, 2)) * whole
        half = 0.5 * whole * np.exp(rng.uniform(np.log(1e-3), 0, (count, 2)))
        scene.append(np.hstack([centre - half, centre + half]).astype(np.float32))
    return scene, sizes


def _options(rng: np.random.Generator) -> dict[str, Any]:
    anisotropic = bool(rng.integers(2))
    sigma = rng.uniform(0.2, 1, 2).tolist()
    return {
        "patch_size": int(rng.choice([1, 1, 1, 2, 3, 4, 50])),
        "expansion_ratio": float(rng.choice([0, 0.15, 0.3, 1.2])),
        "min_size": float(rng.choice([0, 1, 3.5])),
        "use_anisotropic_gaussian": anisotropic,
        "decay_type": str(rng.choice(["gaussian", "linear"])),
        "base_sigma": sigma if anisotropic else sigma[0],
        "temperature": str(rng.choice(["fixed", "size_scaled", "small_gain"])),
        "use_subpixel_offset": bool(rng.integers(2)),
        "merge": str(rng.choice(["max", "sum", "clipped_sum"])),
        "min_radius": float(rng.choice([0, 1])),
    }


# Against itself, where two ways must give the same.


def ways_to_the_same_mask(setup: Setup) -> None:
    """Several maps at once, images in another order or alone, another run: the same bits."""
    for seed in setup.some(range(20), 1):
        rng = np.random.default_rng(seed)
        boxes, sizes = _scene(rng, 3)
        spec = MaskSpec(**_options(rng))
        maps = [(33, 65), (9, 16), (1, 1)] if setup.native else [(9, 33), (1, 1)]
        together = setup.masks(boxes, sizes, maps, spec)
        again = setup.masks(boxes, sizes, maps, spec)
        for cells, mask, repeated in zip(maps, together, again, strict=True):
            same(repeated, mask, f"seed {seed}, second run, map {cells}")
            same(setup.masks(boxes, sizes, [cells], spec)[0], mask, f"seed {seed}, map {cells}")
        order = [2, 0, 1]
        turned = setup.masks([boxes[i] for i in order], [sizes[i] for i in order], maps, spec)
        same(turned[0], together[0][order], f"seed {seed}, order {order}")
        for i in range(3):
            alone = setup.masks([boxes[i]], sizes[i], maps[:1], spec)[0]
            same(alone[0], together[0][i], f"seed {seed}, image {i} alone, one size for all")


def empty_images(setup: Setup) -> None:
    """Images without boxes, batches of only those, and batches of no images."""
    box = [[100.0, 100.0, 300.0, 400.0]]
    batches: list[list[Any]] = [[[], box, []], [[], []], [box, [], [], [], box]]
    for boxes in batches:
        mask, owner = setup.owned(boxes, SIZE, CELLS, FINE)
        for i, of_image in enumerate(boxes):
            assert bool(mask[i].any()) == bool(of_image), f"{boxes}, image {i}"
            assert of_image or bool((owner[i] == -1).all()), f"{boxes}, owners of image {i}"
    no_image = BoxBatch(torch.empty(0, 4, device=setup.device), np.empty(0, np.int64))
    logits = setup.logits(0, *CELLS)
    value = CassLoss(FINE)(logits, no_image, SIZE, CELLS)
    value.backward()
    assert logits.grad is not None
    assert (value.item(), logits.grad.shape) == (0, logits.shape), "a batch of no images"


def thousand_boxes(setup: Setup) -> None:
    """The mask of 1,000 boxes is the maximum of the masks of groups of them, to the bit."""
    count, cells = (1000, (92, 160)) if setup.native else (100, CELLS)
    (boxes,) = street_boxes(1, count, image_size=SIZE)
    whole, owner = setup.owned([boxes], SIZE, cells, FINE)
    parts = [setup.owned([boxes[i : i + 50]], SIZE, cells, FINE) for i in range(0, count, 50)]
    best = torch.stack([mask for mask, _ in parts]).max(0).values
    same(whole, best, "mask")
    expected = torch.full_like(owner, -1)
    for i, (mask, of_group) in reversed(list(enumerate(parts))):  # the first of equals wins
        expected = torch.where((mask == best) & (best > 0), of_group + 50 * i, expected)
    same(owner, expected, "owners")


def fused_loss(setup: Setup) -> None:
    """CassLoss equals `compute_loss` on the mask, for every kind and reduction; twice the same."""
    boxes = [*street_boxes(2, 12, image_size=SIZE), np.empty((0, 4), np.float32)]
    sizes = [SIZE, (700, 1200), SIZE]
    cases = list(itertools.product(get_args(LossKind), get_args(Reduction), (CELLS, ALIGNED)))
    for kind, reduction, cells in setup.some(cases, 6):
        (target,) = setup.masks(boxes, sizes, [cells], FINE)
        logits = setup.logits(3, *cells)
        name = f"{kind}, {reduction}, map {cells}"
        spec = LossSpec(kind=kind, reduction=reduction)
        runs = []
        for _ in range(2):
            value = CassLoss(FINE, spec)(logits, setup.boxes(boxes), sizes, cells)
            runs.append((value, torch.autograd.grad(value.sum(), logits)[0]))
        (value, grad), again = runs
        same(again[0], value, f"{name}, second run")
        same(again[1], grad, f"{name}, gradient, second run")
        expected = setup.loss(logits.detach(), target, spec, 24)
        largest = float(expected.grad.abs().max())
        # A patch's own loss may be rounded differently; in a sum that evens out.
        close(value, expected.loss, 1e-6, 1e-6 if reduction == "none" else 0, name)
        close(grad, expected.grad, 1e-5, 1e-6 * largest, f"{name}, gradient")
