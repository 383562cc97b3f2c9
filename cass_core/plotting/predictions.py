"""Figures of predictions: what predictors keep and lose, beside the target or all at once."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from cass_core.errors import InvalidRequest
from cass_core.plotting.insets import draw_with_inset, zoom_of
from cass_core.plotting.panels import (
    draw_difference,
    draw_kept,
    draw_mask,
    draw_owner,
    fitted,
    hatch,
    panels_of,
)
from cass_core.plotting.scene import Scene, flags_of_boxes
from cass_core.plotting.values import (
    Flags,
    PatchPixels,
    Values,
    check_same_shape,
    grid,
    numbers,
    weights_of,
)


def plot_kept(
    image: Any,
    boxes: Any,
    choices: Mapping[str, tuple[Any, Any]],
    *,
    image_size: Any = None,
    without_patch: Any = None,
    zoom: Any = None,
) -> Figure:
    """Draw which patches are kept, by one predictor or by several, and which objects that loses.

    Kept patches show the image, the others are dimmed. The box of a lost object has a dashed red
    outline.

    Args:
        image, boxes, image_size, without_patch: see `plot_mask`.
        choices: a panel each: from its label to ``[n_y, n_x]``, whether a patch is kept, and
            ``[N]``, whether an object has lost all its patches.
        zoom: see `plot_comparison`.

    Raises:
        InvalidRequest: an argument cannot be used; it is named.

    Example:
        >>> kept = np.eye(4)
        >>> figure = plot_kept(None, [[8, 8, 24, 24]], {"one": (kept, [0])}, image_size=(32, 32))
        >>> figure.axes[0].get_title()
        'one: kept patches: 25%, objects lost: 0 of 1'
    """
    scene = Scene(image, boxes, image_size, without_patch)
    part = zoom_of(scene, zoom)
    if not choices:
        raise InvalidRequest("choices", "must have an entry")
    checked = {label: _choice(scene, kept, lost) for label, (kept, lost) in choices.items()}
    figure, axes = panels_of(scene, len(checked))
    for panel, (label, (kept, lost)) in zip(axes, checked.items(), strict=True):
        draw = partial(draw_kept, scene=scene, kept=kept, lost=lost, label=label)
        draw_with_inset(panel, scene, part, draw)
    return fitted(figure, axes, scene)


def plot_prediction(
    image: Any,
    boxes: Any,
    target: Any,
    logits: Any,
    *,
    image_size: Any = None,
    without_patch: Any = None,
    patch_pixels: PatchPixels = None,
) -> Figure:
    """Draw a target beside the probabilities that a predictor's logits stand for.

    Args:
        image, boxes, image_size, without_patch, patch_pixels: see `plot_mask`.
        target: ``[n_y, n_x]``.
        logits: ``[n_y, n_x]`` or ``[n_y * n_x]``.

    Raises:
        InvalidRequest: an argument cannot be used; it is named.

    Example:
        >>> figure = plot_prediction(None, [], np.eye(4), np.zeros(16), image_size=(32, 32))
        >>> [axes.get_title() for axes in figure.axes[:2]]
        ['target', 'prediction']
    """
    scene = Scene(image, boxes, image_size, without_patch)
    wanted, raw = grid(target, "target"), numbers(logits, "logits")
    if raw.size == wanted.size and raw.ndim == 1:
        raw = raw.reshape(wanted.shape)
    check_same_shape(wanted, raw, "logits", "target")
    predicted = _probability(raw)
    figure, axes = panels_of(scene, 2)
    shown = draw_mask(axes[0], scene, wanted, patch_pixels, "target")
    draw_mask(axes[1], scene, predicted, patch_pixels, "prediction")
    figure.colorbar(shown, ax=axes, label="target, probability", fraction=0.03)
    return fitted(figure, axes, scene)


def plot_overview(
    image: Any,
    boxes: Any,
    first: Any,
    second: Any,
    *,
    owner: Any = None,
    weights: Any = None,
    logits: Any = None,
    kept: Any = None,
    lost: Any = None,
    labels: tuple[str, str] = ("baseline", "improved"),
    image_size: Any = None,
    without_patch: Any = None,
    patch_pixels: PatchPixels = None,
) -> Figure:
    """Draw all there is to see of one image.

    Two masks, their difference, and whose box gave a patch its value; with logits also the
    probabilities that they stand for, and which patches are kept by them.

    Args:
        image, boxes, image_size, without_patch: see `plot_mask`.
        first: ``[n_y, n_x]``.
        second: of the same shape.
        owner: of the same shape, of the second mask; see `plot_owner`. None for no such panel.
        weights: of the same shape, of the second mask; see `plot_mask`.
        logits: ``[m_y, m_x]`` of a predictor, on a grid of its own that covers the image.
        kept: of the logits' shape, whether a patch is kept; needed with logits.
        lost: ``[N]``, whether an object has lost all its patches; needed with logits.
        labels: names of the two masks.
        patch_pixels: of the masks; see `plot_mask`.

    Raises:
        InvalidRequest: an argument cannot be used; it is named.

    Example:
        >>> mask, owner = np.eye(4), np.full((4, 4), -1)
        >>> figure = plot_overview(None, [], mask, mask, owner=owner, image_size=(32, 32))
        >>> [axes.get_title() for axes in figure.axes[:4]]
        ['baseline', 'improved', 'improved - baseline', 'owner']
    """
    scene = Scene(image, boxes, image_size, without_patch)
    before, after = grid(first, "first"), grid(second, "second")
    check_same_shape(before, after, "second", "first")
    panels = 3 + (owner is not None) + (2 if logits is not None else 0)
    figure, axes = panels_of(scene, panels)
    shown = draw_mask(axes[0], scene, before, patch_pixels, labels[0])
    draw_mask(axes[1], scene, after, patch_pixels, labels[1])
    title = f"{labels[1]} - {labels[0]}"
    difference = draw_difference(axes[2], scene, after - before, patch_pixels, title)
    if owner is not None:
        names = grid(owner, "owner", shares=False)
        check_same_shape(before, names, "owner", "first")
        draw_owner(axes[3], scene, names, patch_pixels, "owner")
    of_masks = axes[: 3 + (owner is not None)]
    hatch(of_masks, scene, weights_of(weights, before), patch_pixels)
    if logits is not None:
        predicted = _probability(grid(logits, "logits"))
        check_same_shape(predicted, grid(kept, "kept", shares=False), "kept", "logits")
        keeps, gone = _choice(scene, kept, lost)
        draw_mask(axes[-2], scene, predicted, None, "scores")
        draw_kept(axes[-1], scene, keeps, gone)
    figure.colorbar(shown, ax=axes, label="target, score", fraction=0.02, pad=0.01)
    figure.colorbar(difference, ax=axes, label="difference", fraction=0.02, pad=0.01)
    return fitted(figure, axes, scene)


def _choice(scene: Scene, kept: Any, lost: Any) -> tuple[Flags, Flags]:
    """Which patches are kept and which objects are lost, checked."""
    return grid(kept, "kept", shares=False) > 0, flags_of_boxes(scene, lost, "lost")


def _probability(logits: Values) -> Values:
    # tanh does not overflow, whatever the logit.
    return np.asarray(0.5 * (1 + np.tanh(0.5 * logits)))
