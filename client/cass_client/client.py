"""CassClient: `cass_core`'s functions, answered by a server or in the process."""

from __future__ import annotations

import numbers
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cass_client.backends import Backend, LocalBackend, RemoteBackend
from cass_core.boxes import BoxBatch
from cass_core.errors import InvalidRequest
from cass_core.grid import one_feature_map
from cass_core.loss_inputs import LossInputs, check_logits, check_spec
from cass_core.losses import LossResult
from cass_core.masks import MaskInputs, wrap_masks
from cass_core.specs import LossSpec, MaskSpec

_LONGEST = 365 * 24 * 3600.0


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """What a server tells of itself.

    Attributes:
        version: as in ``0.1.0``.
        device: where it computes: ``cpu`` or ``cuda:N``.
        limits: the largest request it takes, by name; empty for ``local:``, which has none.
    """

    version: str
    device: str
    limits: dict[str, int]


class CassClient:
    """Asks a server, or with ``local:`` the core in this process, for masks and losses.

    Results are those of `cass_core`, bit by bit where the server computes on a CPU: NumPy in,
    NumPy out; torch in, torch out on its device. A client may be used by several threads, pickled,
    and used in a process forked from the one that made it; it opens its connection when it is
    first used there.

    Args:
        target: ``HOST:PORT`` or another gRPC target, or ``local:``.
        timeout: deadline of a call in seconds, above 0 and at most a year.

    Raises:
        CassError: ``local:`` without the core's dependencies.

    Example:
        >>> with CassClient("local:") as client:
        ...     mask = client.generate_mask([[[8, 8, 24, 24]]], (32, 32), (4, 4),
        ...                                 MaskSpec(patch_size=1))
        >>> mask.shape, float(mask.max())
        ((1, 4, 4), 1.0)
    """

    def __init__(self, target: str, *, timeout: float = 30.0) -> None:
        if not isinstance(target, str) or not target:
            raise InvalidRequest("target", f"must be HOST:PORT or local:, got {target!r}")
        ok = isinstance(timeout, numbers.Real) and not isinstance(timeout, bool)
        if not (ok and 0 < timeout <= _LONGEST):
            raise InvalidRequest(
                "timeout",
                f"must be a number of seconds above 0 and at most a year, got {timeout!r}",
            )
        self.target = target
        self._backend: Backend = (
            LocalBackend() if target == "local:" else RemoteBackend(target, float(timeout))
        )

    def generate_mask(
        self,
        boxes: BoxBatch | Sequence[Any],
        image_size: Any,
        feature_map: Any,
        spec: MaskSpec = MaskSpec(),  # noqa: B008 - frozen
        *,
        dtype: Any = "float32",
        return_owner: bool = False,
    ) -> Any:
        """Make the soft target masks of a batch; see `cass_core.generate_mask`.

        Raises:
            InvalidRequest: an argument cannot be used, or is beyond the server's limits.
            Timeout: the deadline passed.
            Unavailable: the server cannot be reached.
            ServerError: the server failed.
        """
        inputs = MaskInputs.check(boxes, image_size, feature_map, spec, dtype, return_owner)
        return wrap_masks(inputs, *self._backend.masks(inputs))

    def compute_loss(
        self,
        logits: Any,
        target: Any = None,
        *,
        boxes: BoxBatch | Sequence[Any] | None = None,
        image_size: Any = None,
        feature_map: Any = None,
        mask_spec: MaskSpec = MaskSpec(),  # noqa: B008 - frozen
        loss_spec: LossSpec = LossSpec(),  # noqa: B008 - frozen
        num_boxes: float | None = None,
        return_grad: bool = False,
    ) -> LossResult:
        """Take the loss of logits against a target, or against the mask of boxes.

        With boxes the mask is made where the loss is computed and never crosses the wire.

        Args:
            logits: ``[B, n_y, n_x]`` or ``[B, n_y * n_x]``.
            target: as for `cass_core.compute_loss`; or None, and the three that follow.
            boxes: as for `cass_core.generate_mask`.
            image_size: (H, W) in pixels, one for all images or one for each.
            feature_map: (h, w) in cells.
            mask_spec: how the mask is made.
            loss_spec: which loss and reduction.
            num_boxes: normaliser of ``per_object``; with boxes by default their number.
            return_grad: also return the gradient.

        Raises:
            InvalidRequest: an argument cannot be used, or is beyond the server's limits.
            Timeout: the deadline passed.
            Unavailable: the server cannot be reached.
            ServerError: the server failed.
        """
        check_spec(loss_spec)
        logits = check_logits(logits)
        if (target is None) == (boxes is None):
            raise InvalidRequest("target", "give either a target or boxes")
        mask = None
        if boxes is not None:
            maps = one_feature_map(feature_map)
            mask = MaskInputs.check(boxes, image_size, maps, mask_spec, "float32", False)
        inputs = LossInputs.check(logits, target, loss_spec, num_boxes, return_grad, mask)
        return self._backend.losses(inputs).wrap(logits, inputs.logits_dtype)

    def info(self) -> ServerInfo:
        """Ask for version, device and limits.

        Raises:
            Timeout: the deadline passed.
            Unavailable: the server cannot be reached.
            ServerError: the server failed.
        """
        answer = self._backend.info()
        limits = {
            field.name: getattr(answer.limits, field.name)
            for field in answer.limits.DESCRIPTOR.fields
            if answer.HasField("limits")
        }
        return ServerInfo(answer.version, answer.device, limits)

    def close(self) -> None:
        """Close the connection; a later call opens it again."""
        self._backend.close()

    def __enter__(self) -> CassClient:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"CassClient({self.target!r})"
