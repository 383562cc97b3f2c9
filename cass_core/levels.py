"""Logits as heads give them, of one level or of several, as one tensor a level."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from cass_core.arrays import is_tensor
from cass_core.checks.logits import check_dense, check_grid, check_logits, check_same_patches
from cass_core.errors import InvalidRequest
from cass_core.grid import FeatureMap, patch_grid
from cass_core.specs import LossSpec, normalizer_of

if TYPE_CHECKING:
    from torch import Tensor

Logits = Any
"""One tensor of all levels, or a list of one a level."""


def check_levels(logits: Logits) -> list[Tensor]:
    """The tensors of logits, checked to be of one dtype that the losses know, on one device.

    Raises:
        InvalidRequest: they are not; ``logits`` or ``logits[i]`` is named.
    """
    is_list = isinstance(logits, list | tuple)
    levels = list(logits) if is_list else [logits]
    if not levels:
        raise InvalidRequest("logits", "must have at least one level")
    for i, level in enumerate(levels):
        name = f"logits[{i}]" if is_list else "logits"
        if not is_tensor(level):
            raise InvalidRequest(name, f"must be a torch tensor, got {type(level).__name__}")
        check_logits(level, name)
        if i and (level.device, level.dtype) != (levels[0].device, levels[0].dtype):
            raise InvalidRequest(
                name,
                f"is {level.dtype} on {level.device}, logits[0] {levels[0].dtype} on "
                f"{levels[0].device}",
            )
    return levels


def plain_logits(logits: Tensor) -> Tensor:
    """Logits of one level without a channel of their own.

    ``[B, n, 1]`` as ``[B, n]`` and ``[B, 1, h, w]`` as ``[B, h, w]``, as views.
    """
    if logits.ndim == 3 and logits.shape[2] == 1:
        return logits[..., 0]
    if logits.ndim == 4 and logits.shape[1] == 1:
        return logits[:, 0]
    return logits


def split_logits(
    logits: Logits, maps: Sequence[FeatureMap], single: bool, patch_size: int, images: int
) -> list[Tensor]:
    """The logits of each feature map, ``[B, n_y, n_x]`` or ``[B, n_y * n_x]``, as views.

    Args:
        logits: of `check_levels`; of one level, or of several a list with one tensor a level or
            all levels' in one row, ``[B, n]`` or ``[B, n, 1]``.
        maps: (h, w) of each level, in cells.
        single: whether one map was given rather than a list.
        patch_size: side of a patch, in cells.
        images: B.

    Raises:
        InvalidRequest: they are not one for each patch; ``logits`` or ``logits[i]`` is named.
    """
    if not maps:
        raise InvalidRequest("feature_map", "must have at least one level")
    is_list = isinstance(logits, list | tuple)
    if is_list and (single or len(logits) != len(maps)):
        raise InvalidRequest(
            "logits", f"have {len(logits)} levels, feature_map has {1 if single else len(maps)}"
        )
    if is_list or len(maps) == 1:
        levels = [plain_logits(level) for level in (logits if is_list else [logits])]
        for i, (level, cells) in enumerate(zip(levels, maps, strict=True)):
            name = f"logits[{i}]" if is_list else "logits"
            check_grid(tuple(level.shape), images, cells, patch_size, name)
        return levels
    counts = [math.prod(patch_grid(cells, patch_size)) for cells in maps]
    row = plain_logits(logits)
    if tuple(row.shape) != (images, sum(counts)):
        raise InvalidRequest(
            "logits",
            f"have the shape {list(logits.shape)}; of several levels they must be a list, or one "
            f"row of {[images, sum(counts)]}: {' + '.join(map(str, counts))} patches",
        )
    import torch

    return list(torch.split(row, counts, dim=1))


def sum_levels(
    loss_of: Callable[[int, LossSpec, float | None], Tensor],
    levels: Sequence[Tensor],
    spec: LossSpec,
    num_boxes: float | None,
    logits: Logits,
) -> Any:
    """The loss of all levels, each by a call of its own.

    Args:
        loss_of: the loss of the level with this index under a spec, with its ``num_boxes``.
        levels: of `split_logits`.
        spec: the loss.
        num_boxes: normaliser of ``per_object``.
        logits: as they were given: losses of the reduction ``none`` get their form.
    """
    if len(levels) > 1 and spec.reduction == "mean":
        # The mean over all levels' patches: their sums over a number that they have in common.
        patches = sum(level.numel() for level in levels)
        num_boxes = normalizer_of(spec, patches, num_boxes)
        spec = dataclasses.replace(spec, reduction="per_object")
    values = [loss_of(i, spec, num_boxes) for i in range(len(levels))]
    if spec.reduction != "none":
        return sum(values[1:], values[0])
    return in_form_of(logits, _row(values))


def is_levels(value: Any) -> bool:
    """Whether this is a list of one array or tensor a level, rather than of numbers."""
    if not isinstance(value, list | tuple) or not value:
        return False
    return all(getattr(part, "ndim", 0) > 1 for part in value)


def flat_levels(logits: Logits, **others: Any) -> tuple[Any, ...]:
    """Logits and others of as many patches as one array each: of several levels, a row of all.

    Args:
        logits: one array or tensor, or a list with one a level.
        others: likewise, by the names that errors give them; or None.

    Raises:
        InvalidRequest: the levels do not go together; an argument, or its entry ``name[i]``, is
            named.
    """
    levels = _parts(logits, "logits")
    rows = [_row(levels)]
    for name, value in others.items():
        parts = _parts(value, name)
        if len(parts) > 1:
            if len(levels) not in (1, len(parts)):
                raise InvalidRequest(
                    name, f"has {len(parts)} levels, the logits have {len(levels)}"
                )
            for i, (level, part) in enumerate(zip(levels, parts, strict=False)):
                if len(levels) > 1:
                    check_same_patches(tuple(level.shape), tuple(part.shape), f"{name}[{i}]")
        rows.append(_row(parts))
    return tuple(rows)


def _parts(value: Any, name: str) -> list[Any]:
    """One array a level, checked to be ones that a row can hold; anything else as it is."""
    if not is_levels(value):
        return [plain_logits(value) if hasattr(value, "ndim") else value]
    for i, part in enumerate(value):
        check_dense(part, f"{name}[{i}]")
    if len({(is_tensor(p), p.dtype, getattr(p, "device", None)) for p in value}) != 1:
        raise InvalidRequest(name, "must be arrays of one kind and dtype, on one device")
    images = [part.shape[0] for part in value]
    for i, count in enumerate(images):
        if count != images[0]:
            raise InvalidRequest(f"{name}[{i}]", f"has {count} images, {name}[0] has {images[0]}")
    return [plain_logits(part) for part in value]


def in_form_of(logits: Logits, values: Any) -> Any:
    """Values of each patch, of several levels in a row, in the form that the logits have."""
    if not isinstance(logits, list | tuple):
        return values.reshape(logits.shape)
    if len(logits) == 1:
        return [values.reshape(logits[0].shape)]
    ends = itertools.accumulate(math.prod(level.shape[1:]) for level in logits)
    edges = itertools.pairwise((0, *ends))
    return [
        values[:, start:stop].reshape(level.shape)
        for (start, stop), level in zip(edges, logits, strict=True)
    ]


def _row(levels: Sequence[Any]) -> Any:
    """The patches of all levels, ``[B, n]``; a single one as it is."""
    if len(levels) == 1:
        return levels[0]
    rows = [level.reshape(len(level), -1) for level in levels]
    if not is_tensor(rows[0]):
        return np.concatenate(rows, axis=1)
    import torch

    return torch.cat(rows, dim=1)
