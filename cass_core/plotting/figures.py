"""Figures of masks: over the image, side by side, beside a prediction, by owner.

They are matplotlib `Figure` objects, made without pyplot: nothing global changes, no window opens,
and they can be made in any thread. Save one with ``figure.savefig("mask.png")``.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure

from cass_core.errors import InvalidRequest
from cass_core.plotting.insets import draw_with_inset, zoom_of
from cass_core.plotting.panels import (
    Flags,
    Scene,
    Values,
    check_same_shape,
    draw_difference,
    draw_kept,
    draw_mask,
    draw_owner,
    grid,
    largest_change,
    numbers,
    panels_of,
    top_of,
)


def plot_mask(
    image: Any,
    boxes: Any,
    mask: Any,
    *,
    image_size: Any = None,
    patch_pixels: tuple[float, float] | None = None,
    title: str | None = None,
) -> Figure:
    """Draw a mask over its image, with its boxes.

    Args:
        image: ``[H, W, 3]`` or ``[H, W]``, uint8 or values in [0, 1]; or None for a plain canvas.
        boxes: ``[N, 4]`` xyxy in pixels; None or empty for none.
        mask: ``[n_y, n_x]``, NumPy or torch on any device; uint8 stands for value / 255.
        image_size: (H, W) in pixels; needed without an image.
        patch_pixels: height and width of a patch in pixels; by default H / n_y and W / n_x, which
            is right where the patch size divides the feature map.
        title: a line above.

    Raises:
        InvalidRequest: an argument cannot be used; it is named.

    Example:
        >>> figure = plot_mask(None, [[8, 8, 24, 24]], np.eye(4), image_size=(32, 32))
        >>> len(figure.axes)  # the mask and its scale
        2
    """
    scene = Scene(image, boxes, image_size)
    values = grid(mask, "mask")
    figure, (axes,) = panels_of(scene, 1)
    shown = draw_mask(axes, scene, values, patch_pixels, title)
    figure.colorbar(shown, ax=axes, label="target", fraction=0.03)
    return figure


def plot_comparison(
    image: Any,
    boxes: Any,
    first: Any,
    second: Any,
    *,
    labels: tuple[str, str] = ("baseline", "improved"),
    image_size: Any = None,
    patch_pixels: tuple[float, float] | None = None,
    zoom: Any = None,
) -> Figure:
    """Draw two masks of one image side by side, and the second minus the first.

    The scale at the edge is that of the masks; the title of the difference says where its own
    colours end: blue for less, red for more.

    Args:
        image: see `plot_mask`.
        boxes: see `plot_mask`.
        first: ``[n_y, n_x]``.
        second: of the same shape.
        labels: names of the two.
        image_size: see `plot_mask`.
        patch_pixels: see `plot_mask`.
        zoom: ``[4]`` xyxy in pixels, a part of the image that each panel also shows enlarged.

    Raises:
        InvalidRequest: an argument cannot be used; it is named.

    Example:
        >>> figure = plot_comparison(None, [], np.zeros((4, 4)), np.eye(4), image_size=(32, 32))
        >>> [axes.get_title() for axes in figure.axes[:3]]
        ['baseline', 'improved', 'improved - baseline: -1.00 to +1.00']
    """
    scene = Scene(image, boxes, image_size)
    before, after = grid(first, "first"), grid(second, "second")
    check_same_shape(before, after, "second", "first")
    part = zoom_of(scene, zoom)
    figure, axes = panels_of(scene, 3)
    top = max(top_of(before), top_of(after))
    change = after - before
    most = largest_change(change)
    title = f"{labels[1]} - {labels[0]}: {-most:+.2f} to {most:+.2f}"

    def mask(panel: Axes, values: Values, label: str) -> ScalarMappable:
        return draw_with_inset(
            panel, scene, part, lambda ax: draw_mask(ax, scene, values, patch_pixels, label, top)
        )

    mask(axes[0], before, labels[0])
    shown = mask(axes[1], after, labels[1])
    draw_with_inset(
        axes[2], scene, part, lambda ax: draw_difference(ax, scene, change, patch_pixels, title)
    )
    figure.colorbar(shown, ax=axes, label="target", fraction=0.02, pad=0.01)
    return figure


def plot_kept(
    image: Any,
    boxes: Any,
    choices: Mapping[str, tuple[Any, Any]],
    *,
    image_size: Any = None,
    zoom: Any = None,
) -> Figure:
    """Draw which patches are kept, by one predictor or by several, and which objects that loses.

    Kept patches show the image, the others are dimmed. The box of a lost object has a dashed red
    outline.

    Args:
        image: see `plot_mask`.
        boxes: see `plot_mask`.
        choices: a panel each: from its label to ``[n_y, n_x]``, whether a patch is kept, and
            ``[N]``, whether an object has lost all its patches.
        image_size: see `plot_mask`.
        zoom: see `plot_comparison`.

    Raises:
        InvalidRequest: an argument cannot be used; it is named.

    Example:
        >>> kept = np.eye(4)
        >>> figure = plot_kept(None, [[8, 8, 24, 24]], {"one": (kept, [0])}, image_size=(32, 32))
        >>> figure.axes[0].get_title()
        'one: kept patches: 25%, objects lost: 0 of 1'
    """
    scene = Scene(image, boxes, image_size)
    part = zoom_of(scene, zoom)
    if not choices:
        raise InvalidRequest("choices", "must have an entry")
    checked = {label: _choice(scene, kept, lost) for label, (kept, lost) in choices.items()}
    figure, axes = panels_of(scene, len(checked))
    for panel, (label, (kept, lost)) in zip(axes, checked.items(), strict=True):
        draw = partial(draw_kept, scene=scene, kept=kept, lost=lost, label=label)
        draw_with_inset(panel, scene, part, draw)
    return figure


def plot_prediction(
    image: Any,
    boxes: Any,
    target: Any,
    logits: Any,
    *,
    image_size: Any = None,
    patch_pixels: tuple[float, float] | None = None,
) -> Figure:
    """Draw a target beside the probabilities that a predictor's logits stand for.

    Args:
        image: see `plot_mask`.
        boxes: see `plot_mask`.
        target: ``[n_y, n_x]``.
        logits: ``[n_y, n_x]`` or ``[n_y * n_x]``.
        image_size: see `plot_mask`.
        patch_pixels: see `plot_mask`.

    Raises:
        InvalidRequest: an argument cannot be used; it is named.

    Example:
        >>> figure = plot_prediction(None, [], np.eye(4), np.zeros(16), image_size=(32, 32))
        >>> [axes.get_title() for axes in figure.axes[:2]]
        ['target', 'prediction']
    """
    scene = Scene(image, boxes, image_size)
    wanted, raw = grid(target, "target"), numbers(logits, "logits")
    if raw.size == wanted.size and raw.ndim == 1:
        raw = raw.reshape(wanted.shape)
    check_same_shape(wanted, raw, "logits", "target")
    predicted = _probability(raw)
    figure, axes = panels_of(scene, 2)
    shown = draw_mask(axes[0], scene, wanted, patch_pixels, "target")
    draw_mask(axes[1], scene, predicted, patch_pixels, "prediction")
    figure.colorbar(shown, ax=axes, label="target, probability", fraction=0.03)
    return figure


def plot_owner(
    image: Any,
    boxes: Any,
    owner: Any,
    *,
    image_size: Any = None,
    patch_pixels: tuple[float, float] | None = None,
    title: str | None = None,
) -> Figure:
    """Draw which box gave each patch its value, in the colour that the box's outline has.

    Args:
        image: see `plot_mask`.
        boxes: see `plot_mask`.
        owner: ``[n_y, n_x]`` whole numbers: the index of a box, or -1.
        image_size: see `plot_mask`.
        patch_pixels: see `plot_mask`.
        title: a line above.

    Raises:
        InvalidRequest: an argument cannot be used; it is named.

    Example:
        >>> owner = np.array([[0, -1], [-1, -1]])
        >>> figure = plot_owner(None, [[0, 0, 16, 16]], owner, image_size=(32, 32))
        >>> len(figure.axes)
        1
    """
    scene = Scene(image, boxes, image_size)
    figure, (axes,) = panels_of(scene, 1)
    draw_owner(axes, scene, grid(owner, "owner"), patch_pixels, title)
    return figure


def plot_overview(
    image: Any,
    boxes: Any,
    first: Any,
    second: Any,
    *,
    owner: Any = None,
    logits: Any = None,
    kept: Any = None,
    lost: Any = None,
    labels: tuple[str, str] = ("baseline", "improved"),
    image_size: Any = None,
    patch_pixels: tuple[float, float] | None = None,
) -> Figure:
    """Draw all there is to see of one image.

    Two masks, their difference, and whose box gave a patch its value; with logits also the
    probabilities that they stand for, and which patches are kept by them.

    Args:
        image: see `plot_mask`.
        boxes: see `plot_mask`.
        first: ``[n_y, n_x]``.
        second: of the same shape.
        owner: of the same shape, of the second mask; see `plot_owner`. None for no such panel.
        logits: ``[m_y, m_x]`` of a predictor, on a grid of its own that covers the image.
        kept: of the logits' shape, whether a patch is kept; needed with logits.
        lost: ``[N]``, whether an object has lost all its patches; needed with logits.
        labels: names of the two masks.
        image_size: see `plot_mask`.
        patch_pixels: of the masks; see `plot_mask`.

    Raises:
        InvalidRequest: an argument cannot be used; it is named.

    Example:
        >>> mask, owner = np.eye(4), np.full((4, 4), -1)
        >>> figure = plot_overview(None, [], mask, mask, owner=owner, image_size=(32, 32))
        >>> [axes.get_title() for axes in figure.axes[:4]]
        ['baseline', 'improved', 'improved - baseline', 'owner']
    """
    scene = Scene(image, boxes, image_size)
    before, after = grid(first, "first"), grid(second, "second")
    check_same_shape(before, after, "second", "first")
    panels = 3 + (owner is not None) + (2 if logits is not None else 0)
    figure, axes = panels_of(scene, panels)
    shown = draw_mask(axes[0], scene, before, patch_pixels, labels[0])
    draw_mask(axes[1], scene, after, patch_pixels, labels[1])
    title = f"{labels[1]} - {labels[0]}"
    difference = draw_difference(axes[2], scene, after - before, patch_pixels, title)
    if owner is not None:
        names = grid(owner, "owner")
        check_same_shape(before, names, "owner", "first")
        draw_owner(axes[3], scene, names, patch_pixels, "owner")
    if logits is not None:
        predicted = _probability(grid(logits, "logits"))
        check_same_shape(predicted, grid(kept, "kept"), "kept", "logits")
        keeps, gone = _choice(scene, kept, lost)
        draw_mask(axes[-2], scene, predicted, None, "scores")
        draw_kept(axes[-1], scene, keeps, gone)
    figure.colorbar(shown, ax=axes, label="target, score", fraction=0.02, pad=0.01)
    figure.colorbar(difference, ax=axes, label="difference", fraction=0.02, pad=0.01)
    return figure


def _choice(scene: Scene, kept: Any, lost: Any) -> tuple[Flags, Flags]:
    """Which patches are kept and which objects are lost, checked."""
    keeps, gone = grid(kept, "kept"), numbers(lost, "lost")
    if gone.shape != (len(scene.boxes),):
        raise InvalidRequest("lost", f"must be [{len(scene.boxes)}], one for each box")
    return keeps > 0, gone > 0


def _probability(logits: Values) -> Values:
    # tanh does not overflow, whatever the logit.
    return np.asarray(0.5 * (1 + np.tanh(0.5 * logits)))
