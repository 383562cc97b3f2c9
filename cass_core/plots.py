"""Figures of masks: over the image, side by side, beside a prediction, by owner.

They are matplotlib `Figure` objects, made without pyplot: nothing global changes, no window opens,
and they can be made in any thread. Save one with ``figure.savefig("mask.png")``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, ListedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from cass_core.arrays import is_tensor
from cass_core.boxes import BoxBatch
from cass_core.errors import InvalidRequest
from cass_core.grid import one_feature_map

Values = npt.NDArray[np.float64]

_CANVAS = 0.92
_BOX_COLOUR = "#00e5ff"
_MASK_COLOURS = colormaps["inferno"]
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
    scene = _Scene(image, boxes, image_size)
    values = _grid(mask, "mask")
    figure, (axes,) = _figure(scene, 1)
    shown = _draw_mask(axes, scene, values, patch_pixels, title)
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
    scene = _Scene(image, boxes, image_size)
    before, after = _grid(first, "first"), _grid(second, "second")
    _same_shape(before, after, "second", "first")
    figure, axes = _figure(scene, 3)
    shown = _draw_mask(axes[0], scene, before, patch_pixels, labels[0])
    _draw_mask(axes[1], scene, after, patch_pixels, labels[1])
    figure.colorbar(shown, ax=axes[:2], label="target", fraction=0.03)
    change = after - before
    most = float(np.max(np.abs(change))) or 1.0
    difference = _draw_grid(
        axes[2],
        scene,
        change,
        _opacity(change, most),
        patch_pixels,
        _DIFFERENCE_COLOURS,
        Normalize(-most, most),
    )
    _draw_boxes(axes[2], scene)
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
    scene = _Scene(image, boxes, image_size)
    wanted, raw = _grid(target, "target"), _numbers(logits, "logits")
    if raw.size == wanted.size and raw.ndim == 1:
        raw = raw.reshape(wanted.shape)
    _same_shape(wanted, raw, "logits", "target")
    # tanh does not overflow, whatever the logit.
    predicted = 0.5 * (1 + np.tanh(0.5 * raw))
    figure, axes = _figure(scene, 2)
    shown = _draw_mask(axes[0], scene, wanted, patch_pixels, "target")
    _draw_mask(axes[1], scene, predicted, patch_pixels, "prediction")
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
    scene = _Scene(image, boxes, image_size)
    names = _grid(owner, "owner")
    if not (np.equal(names, np.floor(names)) & (names >= -1) & (names < len(scene.boxes))).all():
        raise InvalidRequest("owner", "must hold indices of the boxes, or -1")
    colours = [_OWNER_COLOURS(i % _OWNER_COLOURS.N) for i in range(max(1, len(scene.boxes)))]
    figure, (axes,) = _figure(scene, 1)
    _draw_grid(
        axes,
        scene,
        names,
        np.where(names >= 0, 0.65, 0.0),
        patch_pixels,
        ListedColormap(colours),
        Normalize(-0.5, len(colours) - 0.5),
    )
    _draw_boxes(axes, scene, colours)
    axes.set_title(title or "")
    return figure


class _Scene:
    """The checked picture and boxes that a figure shows."""

    def __init__(self, image: Any, boxes: Any, image_size: Any) -> None:
        if image is None:
            if image_size is None:
                raise InvalidRequest("image_size", "is needed without an image")
            self.height, self.width = one_feature_map(image_size)
            self.image = np.full((self.height, self.width), _CANVAS)
        else:
            self.image = _numbers(image, "image")
            shape: tuple[int, ...] = self.image.shape
            if len(shape) != 2 and (len(shape) != 3 or shape[2] != 3):
                raise InvalidRequest(
                    "image", f"must have the shape [H, W, 3] or [H, W], got {list(shape)}"
                )
            self.height, self.width = self.image.shape[0], self.image.shape[1]
            if image_size is not None and one_feature_map(image_size) != (self.height, self.width):
                raise InvalidRequest(
                    "image_size", f"is {image_size}, the image has {(self.height, self.width)}"
                )
        xyxy = BoxBatch.from_list([boxes]).xyxy
        self.boxes = _numbers(xyxy, "boxes")


def _numbers(value: Any, field: str) -> Values:
    """Anything array-like as float64; uint8 as value / 255."""
    if is_tensor(value):
        import torch

        scale = 255.0 if value.dtype == torch.uint8 else 1.0
        array: Values = value.detach().double().cpu().numpy()
        return array / scale
    try:
        raw = np.asarray(value)
        return raw.astype(np.float64) / (255.0 if raw.dtype == np.uint8 else 1.0)
    except (TypeError, ValueError):
        raise InvalidRequest(field, "must be an array of numbers") from None


def _grid(value: Any, field: str) -> Values:
    array = _numbers(value, field)
    if array.ndim != 2 or array.size == 0:
        raise InvalidRequest(
            field, f"must be of one image, [n_y, n_x], got the shape {list(array.shape)}"
        )
    return array


def _same_shape(first: Values, second: Values, field: str, other: str) -> None:
    if first.shape != second.shape:
        raise InvalidRequest(
            field, f"has the shape {list(second.shape)}, {other} has {list(first.shape)}"
        )


def _figure(scene: _Scene, panels: int) -> tuple[Figure, Sequence[Axes]]:
    """A figure with panels side by side, or below each other where the image is wide."""
    aspect = scene.width / scene.height
    across = panels if aspect < 2.5 else 1
    down = panels // across
    panel_width = 18.0 / max(across, 2)
    panel_height = min(9.0, max(1.5, panel_width / aspect))
    figure = Figure(
        figsize=(panel_width * across, (panel_height + 0.35) * down), layout="compressed"
    )
    FigureCanvasAgg(figure)
    axes = figure.subplots(down, across, squeeze=False)
    return figure, list(axes.flat)


def _draw_mask(
    axes: Axes,
    scene: _Scene,
    values: Values,
    patch_pixels: tuple[float, float] | None,
    title: str | None,
) -> ScalarMappable:
    # A sum may exceed 1: then the scale reaches its largest value.
    top = max(1.0, float(np.nanmax(values, initial=0.0)))
    shown = _draw_grid(
        axes,
        scene,
        values,
        _opacity(values, top),
        patch_pixels,
        _MASK_COLOURS,
        Normalize(0, top),
    )
    _draw_boxes(axes, scene)
    axes.set_title(title or "")
    return shown


def _opacity(values: Values, most: float) -> Values:
    """The farther from 0, the less of the image is seen through."""
    return np.where(values == 0, 0.0, 0.25 + 0.5 * np.abs(values) / most)


def _draw_grid(
    axes: Axes,
    scene: _Scene,
    values: Values,
    opacity: Values,
    patch_pixels: tuple[float, float] | None,
    colours: Colormap,
    scale: Normalize,
) -> ScalarMappable:
    """The image in grey, and over it the values."""
    rows, columns = values.shape
    patch_y, patch_x = patch_pixels or (scene.height / rows, scene.width / columns)
    grey = scene.image if scene.image.ndim == 2 else scene.image @ [0.299, 0.587, 0.114]
    axes.imshow(
        grey, cmap="gray", vmin=0, vmax=1, extent=(0, scene.width, scene.height, 0), zorder=0
    )
    shown = axes.imshow(
        values,
        cmap=colours,
        norm=scale,
        alpha=opacity,
        interpolation="nearest",
        extent=(0, columns * patch_x, rows * patch_y, 0),
        zorder=1,
    )
    axes.set_xlim(0, scene.width)
    axes.set_ylim(scene.height, 0)
    axes.set_xticks([])
    axes.set_yticks([])
    return ScalarMappable(norm=shown.norm, cmap=shown.cmap)


def _draw_boxes(axes: Axes, scene: _Scene, colours: Sequence[Any] = (_BOX_COLOUR,)) -> None:
    for i, (x1, y1, x2, y2) in enumerate(scene.boxes.tolist()):
        axes.add_patch(
            Rectangle(
                (x1, y1),
                x2 - x1,
                y2 - y1,
                fill=False,
                edgecolor=colours[i % len(colours)],
                linewidth=0.9,
                zorder=2,
            )
        )
