"""Puts masks into a batch: under a key, as a further element, or into each target."""

from __future__ import annotations

import copy
from collections.abc import MutableMapping, Sequence
from typing import Any, Literal, TypeAlias, get_args

from torch import Tensor

from cass_client.torch.targets.batches import are_samples, targets_key
from cass_core.errors import InvalidRequest

Into: TypeAlias = Literal["batch", "targets"]


def check_into(into: Any) -> Into:
    """Rejects what is no place for masks."""
    if into not in get_args(Into):
        raise InvalidRequest("into", f"must be 'batch' or 'targets', got {into!r}")
    place: Into = into
    return place


def check_place(batch: Any, key: str | None) -> None:
    """Rejects a batch that masks cannot be added to, under a key if there is one."""
    if isinstance(batch, MutableMapping):
        if key is not None:
            _check_free(batch, key, "the batch")
    elif type(batch) not in (tuple, list):  # one with names would lose them
        raise InvalidRequest(
            "collate_fn", f"must give a dict, a tuple or a list, got {type(batch).__name__}"
        )


def place_masks(batch: Any, masks: Any, into: Into, key: str, boxes: str) -> Any:
    """A batch with masks; mappings are copied, so that none of a data set's gets a key.

    Args:
        batch: a dict, a tuple or a list.
        masks: ``[B, n_y, n_x]``, or a list of such.
        into: ``batch`` or ``targets``.
        key: of the masks; in targets with the number of the level, where there are several.
        boxes: key of the boxes.
    """
    if into == "targets":
        return _into_targets(batch, masks, key, boxes)
    if type(batch) is tuple:
        return (*batch, masks)
    if isinstance(batch, list):
        return [*batch, masks]
    batch = copy.copy(batch)
    batch[key] = masks
    return batch


def _into_targets(batch: Any, masks: Any, key: str, boxes: str) -> Any:
    levels = {key: masks} if isinstance(masks, Tensor) else {
        f"{key}_{i}": level for i, level in enumerate(masks)
    }  # fmt: skip
    if are_samples(batch):
        return type(batch)(_with(batch, levels))
    if isinstance(batch, MutableMapping):
        place = targets_key(batch, boxes)
        batch = copy.copy(batch)
        batch[place] = _with(batch[place], levels)
        return batch
    images, targets, *rest = batch
    return type(batch)((images, _with(targets, levels), *rest))


def _with(targets: Any, levels: dict[str, Any]) -> Sequence[Any]:
    if not isinstance(targets, list | tuple) or not all(
        isinstance(target, MutableMapping) for target in targets
    ):
        raise InvalidRequest("into", "'targets' needs a dict an image in the batch")
    found = []
    for i, target in enumerate(targets):
        target = copy.copy(target)
        for key, masks in levels.items():
            _check_free(target, key, f"target {i}")
            target[key] = masks[i]
        found.append(target)
    return type(targets)(found)


def _check_free(mapping: MutableMapping[Any, Any], key: str, what: str) -> None:
    if key in mapping:
        raise InvalidRequest("key", f"{what} has a {key!r} already")
