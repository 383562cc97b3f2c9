"""The engine of the playground's service where another server computes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import grpc
import numpy as np

from cass_client.client import CassClient
from cass_core.arrays import Array
from cass_core.errors import CassError, InvalidRequest
from cass_core.inputs import MaskInputs
from cass_server.engines.base import Checkpoint, CpuEngine
from cass_server.exceptions import Rejection


class NoAnswer(Rejection):
    """The server that computes is away, full, or failed; the words are the client's."""

    code = grpc.StatusCode.UNAVAILABLE


class ClientEngine(CpuEngine):
    """Has a server make the masks; losses, which the page does not ask for, are computed here."""

    small_fill = None  # type: ignore[assignment]

    def __init__(self, client: CassClient) -> None:
        self._client = client

    @staticmethod
    def warm_up() -> None:
        """Compiles nothing: nothing is computed here."""

    def masks(  # type: ignore[override]
        self,
        inputs: MaskInputs,
        masks: Sequence[Array],
        owners: Sequence[Array],
        checkpoint: Checkpoint,
        weights: Sequence[Array] = (),
    ) -> None:
        """See `Engine`.

        Raises:
            InvalidRequest: the server refuses the request.
            NoAnswer: it does not answer.
        """
        requested = (masks, *([owners] if owners else []), *([weights] if weights else []))
        for arrays, answered in zip(requested, self._ask(inputs, bool(weights)), strict=True):
            for array, values in zip(arrays, answered, strict=True):
                np.copyto(array, values)

    def _ask(self, inputs: MaskInputs, return_weights: bool) -> tuple[list[Any], ...]:
        """Lists by feature map: the masks and, if requested, owners and weights."""
        sizes: Any = inputs.sizes
        weighting = inputs.weighting
        given: dict[str, Any] = {}
        if weighting is not None:
            given = {
                "weight_spec": weighting.spec,
                "valid_region": weighting.valid_region,
                "ignore": weighting.ignore,
                "box_weights": weighting.box_weights,
                "return_weights": return_weights,
            }
        try:
            found = self._client.generate_mask(
                inputs.boxes,
                sizes if len(sizes) == inputs.boxes.num_images else sizes[0],
                list(inputs.maps),
                inputs.spec,
                dtype=inputs.dtype,
                return_owner=inputs.return_owner,
                **given,
            )
        except InvalidRequest:
            raise
        except CassError as error:
            raise NoAnswer(str(error)) from error
        return found if isinstance(found, tuple) else (found,)
