"""Where the server computes: compiled loops on the CPU, or Triton kernels on a GPU."""

from __future__ import annotations

import importlib.util
import math
from typing import TYPE_CHECKING, Protocol

import numpy as np

from cass_core.arrays import Array, to_host
from cass_core.boxes import BoxBatch
from cass_core.errors import CassError
from cass_core.losses import (
    HostLoss,
    LossInputs,
    check_summed,
    compute_losses,
    refuse_bad_target,
)
from cass_core.masks import MaskInputs, compute_masks
from cass_core.specs import MaskSpec

if TYPE_CHECKING:
    import torch


class Engine(Protocol):
    """Computes checked requests. Host arrays in and out; called from several threads."""

    device: str
    """As reported to clients: ``cpu`` or ``cuda:N``."""

    def masks(self, inputs: MaskInputs) -> tuple[list[Array], list[Array]]:
        """Masks and owner maps (none unless asked for), one of each a feature map."""

    def losses(self, inputs: LossInputs) -> HostLoss:
        """Loss, sum, normaliser and gradient.

        Raises:
            InvalidRequest: the target leaves [0, 1].
        """

    def warm_up(self) -> None:
        """Compile what the first request would otherwise wait for."""


class CpuEngine:
    """The same kernels as a local call: the same bits."""

    device = "cpu"

    def masks(self, inputs: MaskInputs) -> tuple[list[Array], list[Array]]:
        """See `Engine`."""
        return compute_masks(inputs)

    def losses(self, inputs: LossInputs) -> HostLoss:
        """See `Engine`."""
        return compute_losses(inputs)

    def warm_up(self) -> None:
        """See `Engine`."""
        from cass_core.cpu.run import warm_up

        warm_up()


class CudaEngine:
    """The Triton kernels of `cass_core.ops` on one device."""

    def __init__(self, device: str) -> None:
        self.device = device

    def masks(self, inputs: MaskInputs) -> tuple[list[Array], list[Array]]:
        """See `Engine`."""
        import torch

        from cass_core.ops.run import make_masks

        masks, owners = make_masks(inputs, torch.device(self.device))
        return [to_host(mask)[0] for mask in masks], [to_host(owner)[0] for owner in owners]

    def losses(self, inputs: LossInputs) -> HostLoss:
        """See `Engine`."""
        from cass_core.ops.run import take_loss

        target: torch.Tensor | MaskInputs
        if inputs.mask is not None:
            target = inputs.mask
        else:
            assert inputs.target is not None  # by LossInputs.checked
            target = self._place(inputs.target, inputs.target_dtype)
        result = take_loss(
            self._place(inputs.logits, inputs.logits_dtype),
            target,
            inputs.spec,
            inputs.num_boxes,
            inputs.return_grad,
        )
        total = float(result.sum)
        if math.isnan(total):
            self._refuse_target(inputs)
        loss, _ = to_host(result.loss)
        grad = None if result.grad is None else to_host(result.grad)[0]
        return HostLoss(loss, total, result.normalizer, grad)

    def warm_up(self) -> None:
        """See `Engine`."""
        boxes = BoxBatch(np.array([[2, 2, 6, 6]], np.float32), np.array([1]))
        sizes = np.array([[8.0, 8.0]])
        self.masks(MaskInputs(boxes, sizes, [(8, 8)], True, MaskSpec(), "float32", False))

    def _place(self, array: Array, dtype: str) -> torch.Tensor:
        import torch

        from cass_core.placing import upload

        bits = upload(
            array.view(np.int16) if dtype == "bfloat16" else array, torch.device(self.device)
        )
        return bits.view(torch.bfloat16) if dtype == "bfloat16" else bits

    def _refuse_target(self, inputs: LossInputs) -> None:
        """The kernels answer NaN to a target outside [0, 1]: raise, if it was that."""
        if inputs.target is not None:
            refuse_bad_target(inputs.target, inputs.target_dtype)
        elif inputs.mask is not None and inputs.mask.spec.merge == "sum":
            masks, _ = self.masks(inputs.mask)
            check_summed(float(masks[0].max(initial=0)))


def make_engine(device: str) -> Engine:
    """The engine for ``auto`` (CUDA where torch finds it, else the CPU), ``cpu`` or ``cuda[:N]``.

    Raises:
        CassError: there is no such device here.
    """
    if device == "cpu":
        return CpuEngine()
    if device != "auto" and device != "cuda" and not device.startswith("cuda:"):
        raise CassError(f"--device must be auto, cpu, cuda or cuda:N, got {device}")
    if importlib.util.find_spec("torch") is not None:
        import torch

        found = torch.cuda.device_count() if torch.cuda.is_available() else 0
    else:
        found = 0
    if device == "auto":
        return CudaEngine("cuda:0") if found else CpuEngine()
    number = device.removeprefix("cuda").removeprefix(":") or "0"
    if not number.isdigit() or int(number) >= found:
        raise CassError(f"--device {device}: torch finds {found} CUDA devices on this machine")
    return CudaEngine(f"cuda:{number}")
