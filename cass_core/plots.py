"""Figures of masks: over the image, side by side, beside a prediction, by owner.

They are matplotlib `Figure` objects, made without pyplot: nothing global changes, no window opens,
and they can be made in any thread. Save one with ``figure.savefig("mask.png")``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.figure import Figure

from cass_core.drawing import (
    Scene,
    check_same_shape,
    draw_boxes,
    draw_grid,
    draw_mask,
    grid,
    numbers,
    opacity_of,
    panels_of,
)
from cass_core.errors import InvalidRequest

_DIFFERENCE_COLOURS = colormaps["RdBu_r"]
# Twenty names, told apart well enough where neighbours differ.
_OWNER_COLOURS = colormaps["tab20"]


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
) -> Figure:
    """Draw two masks of one image side by side, and the second minus the first.

    Args:
        image: see `plot_mask`.
        boxes: see `plot_mask`.
        first: ``[n_y, n_x]``.
        second: of the same shape.
        labels: names of the two.
        image_size: see `plot_mask`.
        patch_pixels: see `plot_mask`.

    Raises:
        InvalidRequest: an argument cannot be used; it is named.

    Example:
        >>> figure = plot_comparison(None, [], np.zeros((4, 4)), np.eye(4), image_size=(32, 32))
        >>> [axes.get_title() for axes in figure.axes[:3]]
        ['baseline', 'improved', 'improved - baseline']
    """
    scene = Scene(image, boxes, image_size)
    before, after = grid(first, "first"), grid(second, "second")
    check_same_shape(before, after, "second", "first")
    figure, axes = panels_of(scene, 3)
    shown = draw_mask(axes[0], scene, before, patch_pixels, labels[0])
    draw_mask(axes[1], scene, after, patch_pixels, labels[1])
    figure.colorbar(shown, ax=axes[:2], label="target", fraction=0.03)
    change = after - before
    most = float(np.max(np.abs(change))) or 1.0
    difference = draw_grid(
        axes[2],
        scene,
        change,
        opacity_of(change, most),
        patch_pixels,
        _DIFFERENCE_COLOURS,
        Normalize(-most, most),
    )
    draw_boxes(axes[2], scene)
    axes[2].set_title(f"{labels[1]} - {labels[0]}")
    figure.colorbar(difference, ax=axes[2], label="difference", fraction=0.06)
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
    # tanh does not overflow, whatever the logit.
    predicted = 0.5 * (1 + np.tanh(0.5 * raw))
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
    names = grid(owner, "owner")
    if not (np.equal(names, np.floor(names)) & (names >= -1) & (names < len(scene.boxes))).all():
        raise InvalidRequest("owner", "must hold indices of the boxes, or -1")
    colours = [_OWNER_COLOURS(i % _OWNER_COLOURS.N) for i in range(max(1, len(scene.boxes)))]
    figure, (axes,) = panels_of(scene, 1)
    draw_grid(
        axes,
        scene,
        names,
        np.where(names >= 0, 0.65, 0.0),
        patch_pixels,
        ListedColormap(colours),
        Normalize(-0.5, len(colours) - 0.5),
    )
    draw_boxes(axes, scene, colours)
    axes.set_title(title or "")
    return figure
