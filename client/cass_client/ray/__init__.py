"""Ray: targets ``ray:NAME``, and a class for Ray Data's `map_batches`."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cass_client.ray.mask_batch import MaskBatch

__all__ = ["MaskBatch"]


def __getattr__(name: str) -> object:
    if name == "MaskBatch":  # it stands on the client, which stands on the resolver of targets
        from cass_client.ray.mask_batch import MaskBatch

        return MaskBatch
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
