"""What figures are put together from: panels, and patches drawn over the picture in them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, ListedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch, Rectangle
from matplotlib.path import Path

from cass_core.checks.plausible import warn_of_sizes
from cass_core.errors import InvalidRequest
from cass_core.plotting.scene import MOST_PIXELS, Scene
from cass_core.plotting.values import Flags, PatchPixels, Values

_BOX_COLOUR = "#00e5ff"
_LOST_COLOUR = "#ff3b30"
_NO_PATCH_COLOUR = "#ff9500"
_HATCH_COLOUR = "#39ff14"
_MASK_COLOURS = colormaps["inferno"]
_DIFFERENCE_COLOURS = colormaps["RdBu_r"]
# Twenty names, distinct enough where neighbours differ.
_OWNER_COLOURS = colormaps["tab20"]
_BOX_WIDTH = 0.6
# Of a pruned patch: what is there can still be seen.
_DIMMED = 0.8


def fitted(figure: Figure, axes: Sequence[Axes], scene: Scene) -> Figure:
    """The figure, its panels at least as large as the picture where that is not huge."""
    layout = figure.get_layout_engine()
    assert layout is not None  # see `panels_of`
    layout.execute(figure)
    factor = max(scene.width / panel.get_window_extent().width for panel in axes)
    width, height = figure.get_size_inches()
    most = float(np.sqrt(MOST_PIXELS / (width * height))) / figure.dpi
    factor = min(factor, most)
    if factor > 1:
        figure.set_size_inches(width * factor, height * factor)
    return figure


def panels_of(scene: Scene, panels: int) -> tuple[Figure, Sequence[Axes]]:
    """A figure with panels side by side, or below each other where the image is wide.

    More than three are in two rows, or in two columns.
    """
    aspect = scene.width / scene.height
    lines = 1 if panels <= 3 else 2
    across = -(-panels // lines) if aspect < 2.5 else lines
    down = -(-panels // across)
    panel_width = 18.0 / max(across, 2)
    panel_height = min(9.0, max(1.5, panel_width / aspect))
    figure = Figure(
        figsize=(panel_width * across, (panel_height + 0.35) * down), layout="compressed"
    )
    FigureCanvasAgg(figure)
    axes = list(figure.subplots(down, across, squeeze=False).flat)
    for unused in axes[panels:]:
        unused.remove()
    return figure, axes[:panels]


def top_of(values: Values) -> float:
    """Where the scale of masks ends: at 1, or at the largest value, as a sum may exceed 1."""
    return max(1.0, float(np.nanmax(values, initial=0.0)))


def draw_mask(
    axes: Axes,
    scene: Scene,
    values: Values,
    patch_pixels: PatchPixels,
    title: str | None,
    top: float | None = None,
) -> ScalarMappable:
    """A mask over the image, with the boxes; what a scale is made for."""
    top = top_of(values) if top is None else top
    layer = _Layer(values, opacity_of(values, top), _MASK_COLOURS, Normalize(0, top), patch_pixels)
    return layer.draw(axes, scene, title)


def largest_change(change: Values) -> float:
    """Where the scale of a difference ends, on both sides of 0."""
    return float(np.max(np.abs(change))) or 1.0


def draw_difference(
    axes: Axes, scene: Scene, change: Values, patch_pixels: PatchPixels, title: str
) -> ScalarMappable:
    """Signed values on a scale that is white at 0; what it is made for."""
    most = largest_change(change)
    scale = Normalize(-most, most)
    opacity = opacity_of(change, most)
    return _Layer(change, opacity, _DIFFERENCE_COLOURS, scale, patch_pixels).draw(
        axes, scene, title
    )


def draw_owner(
    axes: Axes, scene: Scene, owner: Values, patch_pixels: PatchPixels, title: str | None
) -> None:
    """Each patch in the colour that the outline of its box has."""
    if not (np.equal(owner, np.floor(owner)) & (owner >= -1) & (owner < len(scene.boxes))).all():
        raise InvalidRequest("owner", "must hold indices of the boxes, or -1")
    colours = [_OWNER_COLOURS(i % _OWNER_COLOURS.N) for i in range(max(1, len(scene.boxes)))]
    opacity, scale = np.where(owner >= 0, 0.65, 0.0), Normalize(-0.5, len(colours) - 0.5)
    layer = _Layer(owner, opacity, ListedColormap(colours), scale, patch_pixels)
    layer.draw(axes, scene, title, outlines=colours)


def draw_kept(axes: Axes, scene: Scene, kept: Flags, lost: Flags, label: str = "") -> None:
    """The image with its pruned patches dimmed; boxes that are lost have a dashed red outline."""
    text = f"kept patches: {kept.mean():.0%}, objects lost: {lost.sum()} of {len(lost)}"
    opacity = np.where(kept, 0.0, _DIMMED)
    layer = _Layer(np.zeros(kept.shape), opacity, ListedColormap(["black"]), Normalize(0, 1), None)
    layer.draw(axes, scene, f"{label}: {text}" if label else text, in_colour=True)
    for box, gone in zip(axes.patches, lost, strict=True):
        if gone:
            box.set(edgecolor=_LOST_COLOUR, linestyle="--", linewidth=2 * _BOX_WIDTH)


def hatch(
    axes: Sequence[Axes], scene: Scene, weights: Values | None, patch_pixels: PatchPixels
) -> None:
    """Hatches the patches that weigh 0 in panels, if there are any, and says so below the last."""
    if weights is None or weights.all():
        return
    patch_y, patch_x = _patch_sides(scene, weights, patch_pixels)
    runs = []
    for row, without in enumerate(weights == 0):
        edges = np.flatnonzero(np.diff(without.astype(np.int8), prepend=0, append=0))
        top, bottom = row * patch_y, (row + 1) * patch_y
        for left, right in (edges.reshape(-1, 2) * patch_x).tolist():
            corners = [(left, top), (right, top), (right, bottom), (left, bottom), (left, top)]
            runs.append(Path(corners, closed=True))
    # In one path, as each one's hatching takes its time.
    outline = Path.make_compound_path(*runs)
    for panel in axes:
        panel.add_patch(
            PathPatch(
                outline, fill=False, hatch="///", edgecolor=_HATCH_COLOUR, linewidth=0, zorder=1.5
            )
        )
    axes[-1].set_xlabel("hatched: patches that weigh 0")


def opacity_of(values: Values, most: float) -> Values:
    """The farther from 0, the less of the image is seen through."""
    return np.where(values == 0, 0.0, 0.25 + 0.5 * np.abs(values) / most)


def _patch_sides(scene: Scene, values: Values, patch_pixels: PatchPixels) -> tuple[float, float]:
    """Height and width of a patch in pixels."""
    rows, columns = values.shape
    height, width = patch_pixels or (scene.height / rows, scene.width / columns)
    if not (height > 0 and width > 0):
        raise InvalidRequest("patch_pixels", "must be two numbers above 0")
    return height, width


class _Layer(NamedTuple):
    """Values of patches, and how they are shown over the image."""

    values: Values
    opacity: Values
    colours: Colormap
    scale: Normalize
    patch_pixels: PatchPixels

    def draw(
        self,
        axes: Axes,
        scene: Scene,
        title: str | None,
        *,
        in_colour: bool = False,
        outlines: Sequence[Any] = (_BOX_COLOUR,),
    ) -> ScalarMappable:
        """The image, in grey unless its colours are requested, the values, and the boxes."""
        rows, columns = self.values.shape
        if self.patch_pixels is None:
            warn_of_sizes(np.array([[scene.height, scene.width]], np.float64), [(rows, columns)])
        patch_y, patch_x = _patch_sides(scene, self.values, self.patch_pixels)
        picture = scene.image
        if picture.ndim == 3 and not in_colour:
            picture = picture @ [0.299, 0.587, 0.114]
        whole = (0, scene.width, scene.height, 0)
        axes.imshow(picture, cmap="gray", vmin=0, vmax=1, extent=whole, zorder=0)
        shown = axes.imshow(
            self.values,
            cmap=self.colours,
            norm=self.scale,
            alpha=self.opacity,
            interpolation="nearest",
            extent=(0, columns * patch_x, rows * patch_y, 0),
            zorder=1,
        )
        axes.set(xlim=(0, scene.width), ylim=(scene.height, 0), xticks=[], yticks=[])
        # A name may have dollar signs, which would make it a formula.
        axes.set_title(title or "", parse_math=False)
        for i, (x1, y1, x2, y2) in enumerate(scene.boxes.tolist()):
            outline = Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, zorder=2)
            outline.set(edgecolor=outlines[i % len(outlines)], linewidth=_BOX_WIDTH)
            if scene.without_patch[i]:
                outline.set(edgecolor=_NO_PATCH_COLOUR, linestyle=":", linewidth=2 * _BOX_WIDTH)
            axes.add_patch(outline)
        return ScalarMappable(norm=shown.norm, cmap=shown.cmap)
