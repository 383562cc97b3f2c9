"""Hypothesis strategies: random options, and random boxes in random images."""

from __future__ import annotations

from typing import Any, NamedTuple

from hypothesis import strategies as st

Box = tuple[float, float, float, float]


class Scene(NamedTuple):
    """What a mask is made from."""

    boxes: list[list[Box]]
    sizes: list[tuple[int, int]]
    feature_map: tuple[int, int]


def one_of(*values: Any) -> st.SearchStrategy[Any]:
    """Any of the values; shrinks to the first."""
    return st.sampled_from(values)


@st.composite
def boxes_in(draw: st.DrawFn, size: tuple[int, int]) -> Box:
    """A box in, across or beside an image of (H, W); whole quarters, so that sums are exact."""
    corners = []
    for side in (size[1], size[0]):
        low = draw(st.integers(-2 * side, 6 * side))
        length = draw(st.integers(0, 4 * side) | st.integers(0, 8))
        corners.append((low / 4, (low + length) / 4))
    (x1, x2), (y1, y2) = corners
    return x1, y1, x2, y2


@st.composite
def scenes(draw: st.DrawFn, max_images: int = 3, max_cells: int = 14, divisor: int = 1) -> Scene:
    """A batch; the feature map's sides are multiples of ``divisor``."""
    sides = st.integers(1, max(1, max_cells // divisor)).map(lambda n: n * divisor)
    feature_map = draw(st.tuples(sides, sides))
    pixels = st.integers(8, 90)
    sizes = draw(st.lists(st.tuples(pixels, pixels), min_size=1, max_size=max_images))
    boxes = [draw(st.lists(boxes_in(size), max_size=4)) for size in sizes]
    return Scene(boxes, sizes, feature_map)


def mask_options(**fixed: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Valid fields of a mask's options; those given replace what would be drawn."""
    sigmas = st.floats(0.1, 3)
    fields: dict[str, st.SearchStrategy[Any]] = {
        "patch_size": st.integers(1, 5),
        "expansion_ratio": one_of(0.3, 0.0, 1.0) | st.floats(0, 3),
        "min_size": one_of(1.0, 0.0) | st.floats(0, 5),
        "use_anisotropic_gaussian": st.booleans(),
        "decay_type": one_of("gaussian", "linear"),
        "base_sigma": sigmas,
        "temperature": one_of("fixed", "size_scaled", "small_gain"),
        "small_target_gain": st.floats(0.2, 3),
        "small_target_threshold": st.floats(0, 8),
        "size_reference": st.floats(0.5, 16),
        "size_factor_min": st.floats(0.1, 1),
        "size_factor_max": st.floats(1, 4),
        "use_subpixel_offset": st.booleans(),
        "merge": one_of("max", "sum", "clipped_sum"),
        "min_radius": one_of(1.0, 0.0) | st.floats(0, 4),
    }
    drawn = st.fixed_dictionaries(fields | fixed)
    pairs = st.none() | st.tuples(sigmas, sigmas)
    return st.builds(_with_pair, drawn, pairs)


def _with_pair(options: dict[str, Any], pair: tuple[float, float] | None) -> dict[str, Any]:
    if pair is None or not options["use_anisotropic_gaussian"]:
        return options
    return options | {"base_sigma": pair}
