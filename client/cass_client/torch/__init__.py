"""The client SDK in PyTorch: masks in a DataLoader's batches, and the loss in a training loop.

The one part of the SDK that imports torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cass_client.torch.collate import MaskCollate

if TYPE_CHECKING:
    from cass_client.torch.loss import RemoteCassLoss

__all__ = ["MaskCollate", "RemoteCassLoss"]


def __getattr__(name: str) -> object:
    if name == "RemoteCassLoss":  # loads torch's compiler, some 2 s for each spawned worker
        from cass_client.torch.loss import RemoteCassLoss

        return RemoteCassLoss
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
