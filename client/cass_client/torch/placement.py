"""Puts masks and weights into a batch: under a key, as a further element, or into each target."""

from __future__ import annotations

import copy
from collections.abc import MutableMapping, Sequence
from typing import Any, Literal, TypeAlias, get_args

from torch import Tensor

from cass_client.torch.targets.batches import are_samples, targets_key
from cass_core.errors import InvalidRequest

Into: TypeAlias = Literal["batch", "targets"]


def check_into(into: Any) -> Into:
    """Rejects what is no place for masks and weights."""
    if into not in get_args(Into):
        raise InvalidRequest("into", f"must be 'batch' or 'targets', got {into!r}")
    place: Into = into
    return place


def check_place(batch: Any, keys: Sequence[str]) -> None:
    """Rejects a batch that maps cannot be added to, under keys if there are any."""
    if isinstance(batch, MutableMapping):
        for key in keys:
            _check_free(batch, key, "the batch")
    elif type(batch) not in (tuple, list):  # one with names would lose them
        raise InvalidRequest(
            "collate_fn", f"must give a dict, a tuple or a list, got {type(batch).__name__}"
        )


def place_maps(batch: Any, maps: dict[str, Any], into: Into, boxes: str) -> Any:
    """A batch with masks and weights; mappings are copied, so that none of a data set's gets a key.

    Args:
        batch: a dict, a tuple or a list.
        maps: by their keys ``[B, n_y, n_x]``, or a list of such; keys in targets have the number of
            the level, where there are several.
        into: where to.
        boxes: key of the boxes.
    """
    if into == "targets":
        return _into_targets(batch, maps, boxes)
    if isinstance(batch, tuple | list):
        return type(batch)((*batch, *maps.values()))
    batch = copy.copy(batch)
    for key, values in maps.items():
        batch[key] = values
    return batch


def _into_targets(batch: Any, maps: dict[str, Any], boxes: str) -> Any:
    levels = {}
    for key, values in maps.items():
        if isinstance(values, Tensor):
            levels[key] = values
        else:
            levels |= {f"{key}_{i}": level for i, level in enumerate(values)}
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
        for key, values in levels.items():
            _check_free(target, key, f"target {i}")
            target[key] = values[i]
        found.append(target)
    return type(targets)(found)


def _check_free(mapping: MutableMapping[Any, Any], key: str, what: str) -> None:
    if key in mapping:
        raise InvalidRequest("key", f"{what} has a {key!r} already")
