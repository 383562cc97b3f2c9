"""A part of a panel once more, enlarged, in one of its corners."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
from matplotlib.axes import Axes

from cass_core.errors import InvalidRequest
from cass_core.plotting.scene import Scene
from cass_core.plotting.values import Values, numbers

Drawn = TypeVar("Drawn")

# Of a panel's width or height, what an inset takes at most.
_SHARE = 0.44
# Of a panel's width or height, between an inset and the panel's edge.
_MARGIN = 0.012


def zoom_of(scene: Scene, zoom: Any) -> Values | None:
    """The part of the picture that insets enlarge, ``[4]`` xyxy in pixels; None for no insets."""
    if zoom is None:
        return None
    part = numbers(zoom, "zoom")
    if part.shape != (4,):
        raise InvalidRequest("zoom", f"must be [4], xyxy in pixels, got {list(part.shape)}")
    x1, y1, x2, y2 = part.tolist()
    if not (0 <= x1 < x2 <= scene.width and 0 <= y1 < y2 <= scene.height):
        raise InvalidRequest("zoom", f"must lie within {scene.width} x {scene.height} pixels")
    return part


def draw_with_inset(
    axes: Axes, scene: Scene, zoom: Values | None, draw: Callable[[Axes], Drawn]
) -> Drawn:
    """Draw a panel, and a part of it once more, enlarged, in the emptiest corner.

    Args:
        axes: the panel.
        scene: what it shows.
        zoom: as of `zoom_of`.
        draw: draws on the axes that it is given; called a second time for the inset.

    Returns:
        What the first call returned.
    """
    shown = draw(axes)
    if zoom is None:
        return shown
    x1, y1, x2, y2 = zoom.tolist()
    scale = _SHARE * min(scene.width / (x2 - x1), scene.height / (y2 - y1))
    width, height = (x2 - x1) * scale / scene.width, (y2 - y1) * scale / scene.height
    left, low = _emptiest_corner(scene, zoom, width, height)
    inset = axes.inset_axes((left, low, width, height), zorder=4)
    draw(inset)
    inset.set_title("")
    inset.set_xlim(x1, x2)
    inset.set_ylim(y2, y1)
    for spine in inset.spines.values():
        spine.set(edgecolor="white", linewidth=1.2)
    axes.indicate_inset(
        (x1, y1, x2 - x1, y2 - y1), edgecolor="white", alpha=0.9, linewidth=0.9, zorder=3
    )
    return shown


def _emptiest_corner(
    scene: Scene, zoom: Values, width: float, height: float
) -> tuple[float, float]:
    """Left and lower edge of an inset, as shares of the panel, where it covers the fewest boxes."""
    covered = np.concatenate([scene.boxes, zoom[None]])
    covered = covered / [scene.width, scene.height, scene.width, scene.height]
    best, least = (_MARGIN, _MARGIN), np.inf
    for low in (_MARGIN, 1 - _MARGIN - height):
        for left in (_MARGIN, 1 - _MARGIN - width):
            top = 1 - low - height  # rows count downwards
            across = np.minimum(covered[:, 2], left + width) - np.maximum(covered[:, 0], left)
            down = np.minimum(covered[:, 3], top + height) - np.maximum(covered[:, 1], top)
            over = (across > 0) & (down > 0)
            # What is enlarged must itself be seen.
            cost = over[:-1].sum() + len(covered) * over[-1]
            if cost < least:
                best, least = (left, low), cost
    return best
