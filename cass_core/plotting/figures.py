"""Figures of masks: over the image, side by side, by owner.

They are matplotlib `Figure` objects, made without pyplot: nothing global changes, no window opens,
and they can be made in any thread. Save one with ``figure.savefig("mask.png")``.
"""

from __future__ import annotations

from typing import Any

from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure

from cass_core.plotting.insets import draw_with_inset, zoom_of
from cass_core.plotting.panels import (
    draw_difference,
    draw_mask,
    draw_owner,
    fitted,
    hatch,
    largest_change,
    panels_of,
    top_of,
)
from cass_core.plotting.scene import Scene
from cass_core.plotting.values import PatchPixels, Values, check_same_shape, grid, weights_of


def plot_mask(
    image: Any,
    boxes: Any,
    mask: Any,
    *,
    image_size: Any = None,
    without_patch: Any = None,
    weights: Any = None,
    patch_pixels: PatchPixels = None,
    title: str | None = None,
) -> Figure:
    """Draw a mask over its image, with its boxes.

    Args:
        image: ``[H, W, 3]`` or ``[H, W]``, uint8 or values in [0, 1]; or None for a plain canvas.
        boxes: ``[N, 4]`` xyxy in pixels; None or empty for none.
        mask: ``[n_y, n_x]``, NumPy or torch on any device; uint8 stands for value / 255.
        image_size: (H, W) in pixels; needed without an image.
        without_patch: ``[N]``, which boxes get a dotted orange outline, since no patch has its
            centre in them; see `cass_core.boxes_without_patch`.
        weights: ``[n_y, n_x]``, as of `cass_core.generate_mask`; patches that weigh 0, such as
            those of padding and of ignored regions, are hatched.
        patch_pixels: height and width of a patch in pixels; by default H / n_y and W / n_x, which
            is right where the patch size divides the feature map.
        title: a line above.

    Raises:
        InvalidRequest: an argument cannot be used; it is named.

    Example:
        >>> import numpy as np
        >>> figure = plot_mask(None, [[8, 8, 24, 24]], np.eye(4), image_size=(32, 32))
        >>> len(figure.axes)  # the mask and its scale
        2
    """
    scene = Scene(image, boxes, image_size, without_patch)
    values = grid(mask, "mask")
    figure, axes = panels_of(scene, 1)
    shown = draw_mask(axes[0], scene, values, patch_pixels, title)
    hatch(axes, scene, weights_of(weights, values), patch_pixels)
    figure.colorbar(shown, ax=axes, label="target", fraction=0.03)
    return fitted(figure, axes, scene)


def plot_comparison(
    image: Any,
    boxes: Any,
    first: Any,
    second: Any,
    *,
    labels: tuple[str, str] = ("baseline", "improved"),
    image_size: Any = None,
    without_patch: Any = None,
    patch_pixels: PatchPixels = None,
    zoom: Any = None,
) -> Figure:
    """Draw two masks of one image side by side, and the second minus the first.

    The scale at the edge is that of the masks; the title of the difference says where its own
    colours end: blue for less, red for more.

    Args:
        image, boxes, image_size, without_patch, patch_pixels: see `plot_mask`.
        first: ``[n_y, n_x]``.
        second: of the same shape.
        labels: names of the two.
        zoom: ``[4]`` xyxy in pixels, a part of the image that each panel also shows enlarged.

    Raises:
        InvalidRequest: an argument cannot be used; it is named.

    Example:
        >>> import numpy as np
        >>> figure = plot_comparison(None, [], np.zeros((4, 4)), np.eye(4), image_size=(32, 32))
        >>> [axes.get_title() for axes in figure.axes[:3]]
        ['baseline', 'improved', 'improved - baseline: -1.00 to +1.00']
    """
    scene = Scene(image, boxes, image_size, without_patch)
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
    return fitted(figure, axes, scene)


def plot_owner(
    image: Any,
    boxes: Any,
    owner: Any,
    *,
    image_size: Any = None,
    without_patch: Any = None,
    patch_pixels: PatchPixels = None,
    title: str | None = None,
) -> Figure:
    """Draw which box gave each patch its value, in the colour that the box's outline has.

    Args:
        image, boxes, image_size, without_patch, patch_pixels: see `plot_mask`.
        owner: ``[n_y, n_x]`` whole numbers: the index of a box, or -1.
        title: a line above.

    Raises:
        InvalidRequest: an argument cannot be used; it is named.

    Example:
        >>> import numpy as np
        >>> owner = np.array([[0, -1], [-1, -1]])
        >>> figure = plot_owner(None, [[0, 0, 16, 16]], owner, image_size=(32, 32))
        >>> len(figure.axes)
        1
    """
    scene = Scene(image, boxes, image_size, without_patch)
    figure, axes = panels_of(scene, 1)
    draw_owner(axes[0], scene, grid(owner, "owner", shares=False), patch_pixels, title)
    return fitted(figure, axes, scene)
