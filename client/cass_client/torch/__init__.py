"""The client SDK in PyTorch: masks in a DataLoader's batches, and the loss in a training loop.

The one part of the SDK that imports torch.
"""

from __future__ import annotations

try:
    import torch  # noqa: F401 - for the error below
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "cass_client.torch needs PyTorch: pip install torch, or with cass_core's losses too: "
        'pip install "cass[torch]"',
        name=error.name,
    ) from error

from cass_client.torch.batches import MaskLoader, MaskTargets
from cass_client.torch.collate import MaskCollate
from cass_client.torch.loss import RemoteCassLoss

__all__ = ["MaskCollate", "MaskLoader", "MaskTargets", "RemoteCassLoss"]
