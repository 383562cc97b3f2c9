"""Ray Data: a class for `map_batches`."""

from __future__ import annotations

from cass_client.ray.mask_batch import MaskBatch

__all__ = ["MaskBatch"]
