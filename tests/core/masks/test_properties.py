"""What holds for every mask, over random boxes and options."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cass_core import MaskSpec
from tests.core.support import reference
from tests.core.support.paths import compiled, interpreted
from tests.core.support.strategies import Scene, boxes_in, mask_options, one_of, scenes

Options = dict[str, Any]
ONLY_MAX = one_of("max")


def bits(mask: Any) -> npt.NDArray[np.uint32]:
    found: npt.NDArray[np.uint32] = np.asarray(mask).view(np.uint32)
    return found


def same_bits(first: Any, second: Any) -> None:
    np.testing.assert_array_equal(bits(first), bits(second))


@settings(max_examples=100)
@given(scene=scenes(), options=mask_options())
def test_equals_the_reference(scene: Scene, options: Options) -> None:
    expected = reference.masks(*scene, options)
    mask = compiled(*scene, MaskSpec(**options))
    assert mask.shape == expected.mask.shape
    safe = expected.safe
    np.testing.assert_allclose(mask[safe], expected.mask[safe], rtol=2e-6, atol=1e-6)


@settings(max_examples=40)  # the interpreter is slow
@given(scene=scenes(), options=mask_options())
@pytest.mark.slow
def test_kernels_equal_the_compiled_loops(scene: Scene, options: Options) -> None:
    """Unsafe points too: both place boxes by the same float64 operations."""
    spec = MaskSpec(**options)
    np.testing.assert_allclose(interpreted(*scene, spec), compiled(*scene, spec), atol=2e-6)


@settings(max_examples=60)
@given(scene=scenes(), options=mask_options(merge=ONLY_MAX))
def test_owner_equals_the_reference(scene: Scene, options: Options) -> None:
    expected = reference.masks(*scene, options)
    mask, owner = compiled(*scene, MaskSpec(**options), return_owner=True)
    safe = expected.owner_safe
    np.testing.assert_array_equal(owner[safe], expected.owner[safe])
    # Safe or not, a patch has an owner just where it has a value.
    np.testing.assert_array_equal(owner >= 0, mask > 0)
    same_bits(mask, compiled(*scene, MaskSpec(**options)))


@settings(max_examples=50)
@given(scene=scenes(), options=mask_options(merge=one_of("max", "clipped_sum")))
def test_values_lie_between_0_and_1(scene: Scene, options: Options) -> None:
    mask = compiled(*scene, MaskSpec(**options))
    assert (mask >= 0).all()
    assert (mask <= 1).all()


@settings(max_examples=50)
@given(scene=scenes(), options=mask_options())
def test_core_is_at_least_1(scene: Scene, options: Options) -> None:
    mask = compiled(*scene, MaskSpec(**options))
    h, w = scene.feature_map
    py, px = min(options["patch_size"], h), min(options["patch_size"], w)
    for image, (height, width) in enumerate(scene.sizes):
        for x1, y1, x2, y2 in scene.boxes[image]:
            for r, c in np.ndindex(mask.shape[1:]):
                # The centre in pixels; a hair inside, for the rounding.
                x, y = (c + 0.5) * px * width / w, (r + 0.5) * py * height / h
                on_image = x < width and y < height
                if on_image and x1 + 1e-3 < x < x2 - 1e-3 and y1 + 1e-3 < y < y2 - 1e-3:
                    value = mask[image, r, c]
                    assert value >= 1 if options["merge"] == "sum" else value == 1


@settings(max_examples=50)
@given(scene=scenes(), options=mask_options(), data=st.data())
def test_order_of_boxes(scene: Scene, options: Options, data: st.DataObject) -> None:
    shuffled = [data.draw(st.permutations(boxes)) for boxes in scene.boxes]
    mask = compiled(*scene, MaskSpec(**options))
    other = compiled(*scene._replace(boxes=shuffled), MaskSpec(**options))
    if options["merge"] == "max":
        same_bits(mask, other)
    else:
        np.testing.assert_allclose(mask, other, rtol=1e-6, atol=0)


@settings(max_examples=50)
@given(data=st.data(), options=mask_options(), axis=one_of("x", "y"))
def test_flip(data: st.DataObject, options: Options, axis: str) -> None:
    # On a map that the patch divides; otherwise the centres are not symmetric.
    scene = data.draw(scenes(divisor=options["patch_size"]))
    flipped = [
        [
            (width - x2, y1, width - x1, y2) if axis == "x" else (x1, height - y2, x2, height - y1)
            for x1, y1, x2, y2 in boxes
        ]
        for boxes, (height, width) in zip(scene.boxes, scene.sizes, strict=True)
    ]
    mask = compiled(*scene, MaskSpec(**options))
    other = np.flip(compiled(flipped, *scene[1:], MaskSpec(**options)), 2 if axis == "x" else 1)
    safe = reference.masks(*scene, options).safe
    np.testing.assert_allclose(other[safe], mask[safe], rtol=2e-6, atol=1e-6)


@settings(max_examples=50)
@given(scene=scenes(), options=mask_options(merge=one_of("max", "sum")), data=st.data())
def test_another_box_lowers_nothing(scene: Scene, options: Options, data: st.DataObject) -> None:
    more = [
        [*boxes, data.draw(boxes_in(size))]
        for boxes, size in zip(scene.boxes, scene.sizes, strict=True)
    ]
    before = compiled(*scene, MaskSpec(**options))
    after = compiled(more, *scene[1:], MaskSpec(**options))
    assert (after >= before).all()


@settings(max_examples=50)
@given(scene=scenes(), options=mask_options(), power=st.integers(1, 12))
def test_scale(scene: Scene, options: Options, power: int) -> None:
    factor = 2**power
    boxes: list[Any] = [(np.array(b).reshape(-1, 4) * factor).tolist() for b in scene.boxes]
    sizes = [(height * factor, width * factor) for height, width in scene.sizes]
    mask = compiled(*scene, MaskSpec(**options))
    same_bits(mask, compiled(boxes, sizes, scene.feature_map, MaskSpec(**options)))


@settings(max_examples=50)
@given(scene=scenes(max_images=4), options=mask_options())
def test_batch_is_its_images(scene: Scene, options: Options) -> None:
    spec = MaskSpec(**options)
    mask = compiled(*scene, spec)
    for image, (boxes, size) in enumerate(zip(scene.boxes, scene.sizes, strict=True)):
        same_bits(mask[image], compiled([boxes], size, scene.feature_map, spec)[0])
