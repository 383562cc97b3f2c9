"""Figures: what they show, measured on their pixels and artists."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch, Rectangle
from PIL import Image

from cass_core import InvalidRequest
from cass_core.plotting.figures import plot_comparison, plot_mask, plot_owner
from cass_core.plotting.predictions import plot_kept, plot_overview, plot_prediction

SIZE = (40, 60)
PICTURE = np.linspace(0, 255, 40 * 60 * 3).reshape(40, 60, 3).astype(np.uint8)
BOXES = np.array([[10, 5, 30, 35], [40, 10, 50, 20]], np.float32)
MASK = np.array([[0, 0.25, 0], [0.5, 1, 0]])


def pixels(figure: Figure) -> np.ndarray:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=50)
    with Image.open(buffer) as picture:
        return np.asarray(picture.convert("RGB")).astype(int)


def values(figure: Figure, panel: int) -> np.ndarray:
    """What the panel's colours stand for: its second image, the one over the picture."""
    return np.asarray(figure.axes[panel].images[1].get_array())


def outlines(figure: Figure, panel: int = 0) -> list[tuple[float, ...]]:
    found = [p for p in figure.axes[panel].patches if isinstance(p, Rectangle)]
    return [
        (p.get_x(), p.get_y(), p.get_x() + p.get_width(), p.get_y() + p.get_height()) for p in found
    ]


def hatching(figure: Figure, panel: int) -> list[tuple[float, ...]]:
    """The rectangles of a panel's hatched outline: left, top, right, bottom."""
    found = [p for p in figure.axes[panel].patches if isinstance(p, PathPatch)]
    if not found:
        return []
    assert found[0].get_hatch()
    corners = np.asarray(found[0].get_path().vertices).reshape(-1, 5, 2)
    return [(*c.min(axis=0).tolist(), *c.max(axis=0).tolist()) for c in corners]


def test_patches_that_weigh_nothing_are_hatched() -> None:
    """Of two rows of three patches of 20 pixels; neighbours in a row are one."""
    weights = torch.tensor([[0.0, 0, 2], [1, 0, 0.5]])
    figure = plot_mask(PICTURE, BOXES, MASK, weights=weights)
    assert hatching(figure, 0) == [(0, 0, 40, 20), (20, 20, 40, 40)]
    assert figure.axes[0].get_xlabel() == "hatched: patches that weigh 0"
    assert hatching(plot_mask(PICTURE, BOXES, MASK, weights=weights + 1), 0) == []
    overview = plot_overview(
        PICTURE, BOXES, MASK, MASK, owner=MASK * 0 - 1, weights=weights, patch_pixels=(10, 20),
        logits=np.zeros((4, 6)), kept=np.ones((4, 6)), lost=[0, 0],
    )  # fmt: skip
    smaller = [(0, 0, 40, 10), (20, 10, 40, 20)]
    assert [hatching(overview, panel) for panel in range(6)] == [smaller] * 4 + [[], []]
    with pytest.raises(InvalidRequest, match=r"weights: has the shape \[1, 3\], the mask has"):
        plot_mask(PICTURE, BOXES, MASK, weights=weights[:1])


@pytest.mark.parametrize(
    "mask",
    [
        MASK,
        MASK.astype(np.float16),
        torch.from_numpy(MASK).to(torch.bfloat16),
        torch.from_numpy(MASK).requires_grad_(),
        MASK.tolist(),
    ],
)
def test_mask(mask: Any) -> None:
    figure = plot_mask(PICTURE, BOXES, mask, title="one")
    np.testing.assert_array_equal(values(figure, 0), MASK)
    assert outlines(figure) == [tuple(box) for box in BOXES.tolist()]
    assert figure.axes[0].get_title() == "one"
    # Two columns of three: a patch of 20 x 20 pixels.
    assert figure.axes[0].images[1].get_extent() == [0, 60, 40, 0]
    assert pixels(figure).std() > 10


def test_uint8_mask_is_a_share_of_255() -> None:
    figure = plot_mask(PICTURE, [], (MASK * 255).round().astype(np.uint8))
    np.testing.assert_allclose(values(figure, 0), [[0, 64 / 255, 0], [128 / 255, 1, 0]])


def test_zero_patches_show_the_picture() -> None:
    """A mask of zeros draws the same pixels as no mask's colours would."""
    zero = pixels(plot_mask(PICTURE, [], np.zeros((2, 3))))
    one = pixels(plot_mask(PICTURE, [], MASK))
    assert (zero != one).any()
    grey = zero[zero.shape[0] // 2, : zero.shape[1] // 2]
    assert (np.abs(grey - grey.mean(axis=1, keepdims=True)) <= 1).all()


def test_patches_beyond_the_image() -> None:
    figure = plot_mask(None, None, MASK, image_size=SIZE, patch_pixels=(24.0, 24.0))
    assert figure.axes[0].images[1].get_extent() == [0, 72, 48, 0]
    assert figure.axes[0].get_xlim() == (0, 60)
    assert figure.axes[0].get_ylim() == (40, 0)


def test_comparison() -> None:
    figure = plot_comparison(PICTURE, BOXES, MASK, MASK[::-1], labels=("a", "b"))
    titles = ["a", "b", "b - a: -0.75 to +0.75"]
    assert [axes.get_title() for axes in figure.axes[:3]] == titles
    np.testing.assert_array_equal(values(figure, 0), MASK)
    np.testing.assert_array_equal(values(figure, 1), MASK[::-1])
    np.testing.assert_array_equal(values(figure, 2), [[0.5, 0.75, 0], [-0.5, -0.75, 0]])
    # The scale is symmetric: no difference is white.
    low, high = figure.axes[2].images[1].get_clim()
    assert (low, high) == (-0.75, 0.75)
    for panel in range(3):
        assert len(outlines(figure, panel)) == 2
    pixels(plot_comparison(PICTURE, BOXES, MASK, MASK))  # no difference at all


def test_comparison_has_one_scale_at_the_edge() -> None:
    figure = plot_comparison(PICTURE, BOXES, MASK, 3 * MASK)
    assert len(figure.axes) == 3 + 1
    pixels(figure)
    scale = figure.axes[3]
    assert scale.get_position().x0 > max(axes.get_position().x1 for axes in figure.axes[:3])
    # Both masks are on it, the one that exceeds 1 too.
    for panel in range(2):
        assert figure.axes[panel].images[1].get_clim() == (0, 3)
    assert scale.get_ylim() == (0, 3)


def test_insets_show_a_part_once_more() -> None:
    figure = plot_comparison(PICTURE, BOXES, MASK, MASK[::-1], zoom=(36, 6, 51, 16))
    picture = pixels(figure)
    plain = pixels(plot_comparison(PICTURE, BOXES, MASK, MASK[::-1]))
    assert picture.shape == plain.shape
    assert (picture != plain).any()
    for axes in figure.axes[:3]:
        (inset,) = axes.child_axes
        assert inset.get_xlim() == (36, 51)
        assert inset.get_ylim() == (16, 6)
        assert inset.get_title() == ""
        np.testing.assert_array_equal(inset.images[1].get_array(), axes.images[1].get_array())
        assert len([p for p in inset.patches if isinstance(p, Rectangle)]) == len(BOXES)
        # A pixel is as wide as it is high, and larger than in the panel.
        box = inset.get_position()
        width, height = figure.get_size_inches() * [box.width, box.height]
        assert width / 15 == pytest.approx(height / 10, rel=0.02)
        whole = axes.get_position()
        assert width / 15 > 1.5 * figure.get_size_inches()[0] * whole.width / 60
        # Boxes and the part itself lie elsewhere: the one free corner is the lower right one.
        assert box.x0 > whole.x0 + whole.width / 2
        assert box.y1 < whole.y0 + whole.height / 2


def test_kept() -> None:
    """Kept patches have their colours, the others are dark; lost boxes are dashed."""
    kept = np.array([[True, False, False], [False, False, True]])
    choices = {"a": (kept, [False, True]), "b": (torch.from_numpy(~kept), [0, 0])}
    figure = plot_kept(PICTURE, BOXES, choices)
    assert [axes.get_title() for axes in figure.axes] == [
        "a: kept patches: 33%, objects lost: 1 of 2",
        "b: kept patches: 67%, objects lost: 0 of 2",
    ]
    first, second = figure.axes
    np.testing.assert_array_equal(first.images[0].get_array(), PICTURE / 255)
    assert ((np.asarray(first.images[1].get_alpha()) == 0) == kept).all()
    assert ((np.asarray(second.images[1].get_alpha()) == 0) == ~kept).all()
    assert [patch.get_linestyle() for patch in first.patches] == ["solid", "--"]
    pixels(figure)
    (panel,) = plot_kept(None, [], {"": (kept, [])}, image_size=SIZE).axes
    assert panel.get_title() == "kept patches: 33%, objects lost: 0 of 0"


def test_prediction() -> None:
    """sigmoid(ln 3) = 3/4, and extreme logits do not overflow."""
    logits = np.array([0, np.log(3), -np.log(3), 1e4, -1e4, 0])
    figure = plot_prediction(PICTURE, BOXES, MASK, logits)
    expected = [[0.5, 0.75, 0.25], [1, 0, 0.5]]
    np.testing.assert_allclose(values(figure, 1), expected, rtol=1e-12)
    half = plot_prediction(PICTURE, BOXES, MASK, torch.from_numpy(logits.reshape(2, 3)).half())
    np.testing.assert_allclose(values(half, 1), expected, atol=1e-3)


def test_owner() -> None:
    owner = np.array([[0, -1, 1], [-1, -1, 1]], np.int32)
    figure = plot_owner(PICTURE, BOXES, owner, title="who")
    shown = figure.axes[0].images[1]
    alpha = np.asarray(shown.get_alpha())
    assert ((alpha > 0) == (owner >= 0)).all()
    # A patch has the colour of its box's outline.
    edges = [p.get_edgecolor() for p in figure.axes[0].patches]
    for name, edge in enumerate(edges):
        np.testing.assert_allclose(shown.cmap(shown.norm(name)), edge)
    assert edges[0] != edges[1]
    pixels(figure)


OWNER = np.array([[-1, 0, -1], [1, 1, -1]])


def test_owner_of_any_whole_dtype() -> None:
    for dtype in (np.uint8, np.int64):
        names = np.array([[1, 0, 0], [0, 1, 1]], dtype)
        np.testing.assert_array_equal(values(plot_owner(PICTURE, BOXES, names), 0), names)


def test_overview() -> None:
    figure = plot_overview(PICTURE, BOXES, MASK, MASK[::-1], owner=OWNER, labels=("a", "b"))
    assert [axes.get_title() for axes in figure.axes[:4]] == ["a", "b", "b - a", "owner"]
    expected = [MASK, MASK[::-1], [[0.5, 0.75, 0], [-0.5, -0.75, 0]], OWNER]
    for panel, shown in enumerate(expected):
        np.testing.assert_array_equal(values(figure, panel), shown)
        assert len(outlines(figure, panel)) == 2
    # Two rows of two.
    assert len({round(axes.get_position().y0, 2) for axes in figure.axes[:4]}) == 2
    pixels(figure)
    assert len(plot_overview(PICTURE, BOXES, MASK, MASK).axes) == 3 + 2  # and two scales


def test_overview_of_a_prediction() -> None:
    """Scores have a grid of their own; what is pruned is dark, a lost box dashed."""
    logits = np.array([[0, np.log(3)], [-np.log(3), 1e4], [0, 0], [0, 0]])
    kept = np.array([[True, True], [False, True], [False, False], [False, False]])
    figure = plot_overview(
        PICTURE,
        BOXES,
        MASK,
        MASK,
        owner=OWNER,
        logits=logits,
        kept=kept,
        lost=np.array([False, True]),
        patch_pixels=(24.0, 24.0),
    )
    scores, pruned = figure.axes[4:6]
    assert scores.get_title() == "scores"
    np.testing.assert_allclose(values(figure, 4), [[0.5, 0.75], [0.25, 1], [0.5] * 2, [0.5] * 2])
    assert pruned.get_title() == "kept patches: 38%, objects lost: 1 of 2"
    alpha = np.asarray(pruned.images[1].get_alpha())
    assert (alpha[kept] == 0).all()
    assert (alpha[~kept] > 0.5).all()
    assert figure.axes[0].images[1].get_extent() == [0, 72, 48, 0]
    assert pruned.images[1].get_extent() == scores.images[1].get_extent() == [0, 60, 40, 0]
    assert [patch.get_linestyle() for patch in pruned.patches] == ["solid", "--"]
    assert pruned.patches[0].get_edgecolor() != pruned.patches[1].get_edgecolor()
    pixels(figure)


def test_unused_panels_are_left_out() -> None:
    figure = plot_overview(PICTURE, [], MASK, MASK, logits=MASK, kept=MASK > 0, lost=[])
    assert len(figure.axes) == 5 + 2


def test_wide_images_are_stacked() -> None:
    figure = plot_comparison(None, [], MASK, MASK, image_size=(256, 1024))
    tops = {round(axes.get_position().x0, 1) for axes in figure.axes[:3]}
    assert len(tops) == 1


Refused = tuple[Any, tuple[Any, ...], dict[str, Any], str]
KEPT: dict[str, Any] = {"logits": MASK, "kept": MASK > 0}
REFUSED: list[Refused] = [
    (plot_mask, (None, [], MASK), {}, "image_size: is needed without an image"),
    (plot_mask, (PICTURE, [], MASK), {"image_size": (60, 40)},
     "image_size: is (60, 40), the image has (40, 60)"),
    (plot_mask, (PICTURE[None], [], MASK), {},
     "image: must have the shape [H, W, 3] or [H, W], got [1, 40, 60, 3]"),
    (plot_mask, (PICTURE.astype(float), [], MASK), {},
     "image: must hold uint8, or values in [0, 1]"),
    (plot_mask, (PICTURE, BOXES, MASK), {"without_patch": ["False", "True"]},
     "without_patch: must be an array of numbers"),
    (plot_kept, (PICTURE, BOXES, {"a": ([["0", "1"]], [0, 0])}), {},
     "kept: must be an array of numbers"),
    (plot_mask, (PICTURE, [], MASK * np.nan), {}, "mask: holds NaN"),
    (plot_mask, (PICTURE, [], MASK), {"patch_pixels": (0, 9)},
     "patch_pixels: must be two numbers above 0"),
    (plot_mask, (PICTURE, BOXES, MASK), {"without_patch": [True]},
     "without_patch: must be [2], one for each box"),
    (plot_mask, (None, [], MASK), {"image_size": [SIZE]}, "image_size: must be one (H, W) here"),
    (plot_mask, (PICTURE, [], MASK[None]), {},
     "mask: must be of one image, [n_y, n_x], got the shape [1, 2, 3]"),
    (plot_mask, (PICTURE, [], np.ma.masked_less(MASK, 1)), {}, "mask: has masked values"),
    (plot_mask, (PICTURE, [], "mask"), {}, "mask: must be an array of numbers"),
    (plot_mask, (PICTURE, [[3, 0, 1, 1]], MASK), {},
     "boxes[0][0].x2: is smaller than x1; boxes are x1, y1, x2, y2"),
    (plot_comparison, (PICTURE, [], MASK, MASK.T), {},
     "second: has the shape [3, 2], first has [2, 3]"),
    (plot_prediction, (PICTURE, [], MASK, np.zeros(5)), {},
     "logits: has the shape [5], target has [2, 3]"),
    (plot_overview, (PICTURE, [], MASK, MASK), {"owner": MASK[:1]},
     "owner: has the shape [1, 3], first has [2, 3]"),
    (plot_overview, (PICTURE, [], MASK, MASK), {"logits": MASK},
     "kept: must be an array of numbers"),
    (plot_overview, (PICTURE, [], MASK, MASK), KEPT | {"kept": MASK[:1]},
     "kept: has the shape [1, 3], logits has [2, 3]"),
    (plot_overview, (PICTURE, BOXES, MASK, MASK), KEPT | {"lost": [1]},
     "lost: must be [2], one for each box"),
    (plot_owner, (PICTURE, BOXES, [[2]]), {}, "owner: must hold indices of the boxes, or -1"),
    (plot_owner, (PICTURE, BOXES, [[0.5]]), {}, "owner: must hold indices of the boxes, or -1"),
]  # fmt: skip


@pytest.mark.parametrize(("plot", "arguments", "options", "error"), REFUSED)
def test_refused(plot: Any, arguments: Any, options: dict[str, Any], error: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        plot(*arguments, **options)
    assert str(caught.value) == error


def shown_size(figure: Figure, panel: int) -> tuple[float, float]:
    """Width and height of a panel in pixels of the saved figure."""
    figure.draw_without_rendering()
    extent = figure.axes[panel].get_window_extent()
    return extent.width, extent.height


@pytest.mark.parametrize(
    "size",
    [
        (736, 1280),
        pytest.param((1280, 736), marks=pytest.mark.slow),
        pytest.param((40, 60), marks=pytest.mark.slow),
    ],
)
def test_panels_are_as_large_as_the_picture(size: tuple[int, int]) -> None:
    box = [[5, 5, 9, 9]]
    for figure, panels in [
        (plot_mask(None, box, MASK, image_size=size, title="one"), 1),
        (plot_comparison(None, box, MASK, MASK, image_size=size), 3),
        (plot_overview(None, box, MASK, MASK, owner=MASK * 0, image_size=size), 4),
        (plot_kept(None, box, {"a": (MASK > 0, [0])}, image_size=size), 1),
    ]:
        assert figure.dpi == 100
        for panel in range(panels):
            width, height = shown_size(figure, panel)
            assert width >= size[1] - 1
            assert height >= size[0] - 1


def test_a_huge_picture_leaves_the_memory_alone() -> None:
    figure = plot_mask(None, [], MASK, image_size=(20_000, 20_000))
    width, height = figure.get_size_inches() * figure.dpi
    assert 3e7 < width * height < 3.3e7


def test_boxes_without_a_patch_are_marked() -> None:
    plain = plot_mask(PICTURE, BOXES, MASK).axes[0].patches
    marked = plot_mask(PICTURE, BOXES, MASK, without_patch=np.array([False, True])).axes[0].patches
    assert [patch.get_linestyle() for patch in marked] == ["solid", ":"]
    assert marked[0].get_edgecolor() == plain[0].get_edgecolor() != marked[1].get_edgecolor()
    both = plot_overview(PICTURE, BOXES, MASK, MASK, owner=OWNER, without_patch=[True, True])
    for axes in both.axes[:4]:
        assert [patch.get_linestyle() for patch in axes.patches] == [":"] * 2


@pytest.mark.slow
def test_names_are_no_formulas() -> None:
    """With mathtext the second would be an error and the first lose its dollars."""
    for name in ("a$x^2$b", r"$\frac{1}$", "50% of $"):
        for figure in (
            plot_mask(PICTURE, BOXES, MASK, title=name),
            plot_comparison(PICTURE, BOXES, MASK, MASK, labels=(name, name), zoom=(0, 0, 9, 9)),
            plot_kept(PICTURE, BOXES, {name: (MASK > 0, [0, 0])}),
            plot_owner(PICTURE, BOXES, OWNER, title=name),
        ):
            assert name in figure.axes[0].get_title()
            pixels(figure)


def test_pyplot_is_left_alone() -> None:
    import sys

    plot_mask(PICTURE, BOXES, MASK)
    pyplot = sys.modules.get("matplotlib.pyplot")
    assert pyplot is None or pyplot.get_fignums() == []
