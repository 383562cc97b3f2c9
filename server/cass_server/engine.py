"""Where the server computes: compiled loops on the CPU, or torch on a GPU."""

from __future__ import annotations

import importlib.util
from typing import Protocol

from cass_core.arrays import Array, from_host, to_host
from cass_core.boxes import BoxBatch
from cass_core.errors import CassError
from cass_core.losses import HostLoss, LossInputs, check_summed, compute_losses
from cass_core.masks import MaskInputs, compute_masks


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


class TorchEngine:
    """The torch operations of `cass_core.accel` on one device."""

    def __init__(self, device: str) -> None:
        self.device = device

    def masks(self, inputs: MaskInputs) -> tuple[list[Array], list[Array]]:
        """See `Engine`."""
        from cass_core.accel.masks import make_all_masks

        masks, owners = make_all_masks(self._on_device(inputs))
        return [to_host(mask)[0] for mask in masks], [to_host(owner)[0] for owner in owners]

    def losses(self, inputs: LossInputs) -> HostLoss:
        """See `Engine`."""
        import torch

        from cass_core.accel.losses import take_loss
        from cass_core.accel.masks import make_all_masks

        def place(array: Array, dtype: str) -> torch.Tensor:
            return torch.as_tensor(from_host(array.copy(), dtype, as_tensor=True)).to(self.device)

        if inputs.mask is not None:
            masks, _ = make_all_masks(self._on_device(inputs.mask))
            target = masks[0]
            if inputs.mask.spec.merge == "sum" and target.numel():
                check_summed(float(target.max()))
        else:
            assert inputs.target is not None  # by LossInputs.checked
            target = place(inputs.target, inputs.target_dtype)
        result = take_loss(
            place(inputs.logits, inputs.logits_dtype),
            target,
            inputs.spec,
            inputs.num_boxes,
            inputs.return_grad,
            target_known_good=inputs.mask is not None,
        )
        loss, _ = to_host(result.loss)
        grad = None if result.grad is None else to_host(result.grad)[0]
        return HostLoss(loss, float(result.sum), result.normalizer, grad)

    def warm_up(self) -> None:
        """See `Engine`."""
        import torch

        torch.zeros(1, device=self.device)

    def _on_device(self, inputs: MaskInputs) -> MaskInputs:
        import torch

        xyxy = torch.from_numpy(to_host(inputs.boxes.xyxy)[0].copy()).to(self.device)
        boxes = BoxBatch(xyxy, inputs.boxes.counts)
        return MaskInputs(
            boxes,
            inputs.sizes,
            inputs.maps,
            inputs.single,
            inputs.spec,
            inputs.dtype,
            inputs.return_owner,
        )


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
        return TorchEngine("cuda:0") if found else CpuEngine()
    number = device.removeprefix("cuda").removeprefix(":") or "0"
    if not number.isdigit() or int(number) >= found:
        raise CassError(f"--device {device}: torch finds {found} CUDA devices on this machine")
    return TorchEngine(f"cuda:{number}")
