"""AsyncCassClient: the same client for an event loop."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Sequence
from typing import Any, TypeVar

from cass_client._base import BaseClient, ServerInfo
from cass_client.arguments import MaskRequest, loss_call
from cass_client.transport.aio import AsyncTransport
from cass_client.transport.effects import Effects
from cass_client.transport.profile import CallProfile
from cass_core.boxes import BoxBatch
from cass_core.inputs import MaskInputs
from cass_core.results import LossResult, wrap_masks
from cass_core.specs import LossSpec, MaskSpec, WeightSpec

T = TypeVar("T")


class AsyncCassClient(BaseClient[AsyncTransport]):
    """`cass_client.CassClient` for an event loop: the same arguments, methods and errors.

    In another loop than before it opens another connection. ``local:`` and the fallback compute in
    a thread.

    Example:
        >>> async def make_mask():
        ...     async with AsyncCassClient("local:") as client:
        ...         return await client.generate_mask([[[8, 8, 24, 24]]], (32, 32), (8, 8))
        >>> asyncio.run(make_mask()).shape
        (1, 8, 8)
    """

    _make_connection = AsyncTransport

    async def generate_mask(
        self,
        boxes: BoxBatch | Sequence[Any],
        image_size: Any,
        feature_map: Any,
        spec: MaskSpec = MaskSpec(),  # noqa: B008 - frozen
        *,
        weight_spec: WeightSpec | None = None,
        valid_region: Any = None,
        ignore: BoxBatch | Sequence[Any] | None = None,
        box_weights: Any = None,
        return_owner: bool = False,
        return_weights: bool = False,
        dtype: Any = "float32",
    ) -> Any:
        """See `cass_client.CassClient.generate_mask`."""
        inputs = MaskInputs.check(boxes, image_size, feature_map, spec, dtype, return_owner)
        given = weight_spec, valid_region, ignore, box_weights
        inputs = inputs.with_weights(return_weights, *given)
        return wrap_masks(inputs, *await self._run(self._mask_effects(inputs)))

    def generate_mask_future(
        self,
        boxes: BoxBatch | Sequence[Any],
        image_size: Any,
        feature_map: Any,
        spec: MaskSpec = MaskSpec(),  # noqa: B008 - frozen
        *,
        weight_spec: WeightSpec | None = None,
        valid_region: Any = None,
        ignore: BoxBatch | Sequence[Any] | None = None,
        box_weights: Any = None,
        return_owner: bool = False,
        return_weights: bool = False,
        dtype: Any = "float32",
    ) -> asyncio.Task[Any]:
        """As `generate_mask`, without waiting: a task of the masks of the arguments as they are.

        Raises:
            InvalidRequest: an argument cannot be used; all else is raised by the task.
        """
        given = weight_spec, valid_region, ignore, box_weights, return_weights
        options = spec, dtype, return_owner, *given
        inputs = MaskRequest(boxes, image_size, feature_map, *options).check()

        async def masks() -> Any:
            return wrap_masks(inputs, *await self._run(self._mask_effects(inputs)))

        return asyncio.ensure_future(masks())

    async def stream_masks(
        self, requests: Iterable[MaskRequest] | AsyncIterable[MaskRequest], in_flight: int = 8
    ) -> AsyncIterator[Any]:
        """See `cass_client.CassClient.stream_masks`; the requests may come asynchronously."""
        source = requests if isinstance(requests, AsyncIterable) else _asynchronously(requests)
        gives = self._connection().stream(self._stream_effects(in_flight), aiter(source))
        async with contextlib.aclosing(gives) as answers:  # type: ignore[type-var]
            async for inputs, masks in answers:
                yield wrap_masks(inputs, *masks)

    async def compute_loss(
        self,
        logits: Any,
        target: Any = None,
        *,
        boxes: BoxBatch | Sequence[Any] | None = None,
        image_size: Any = None,
        feature_map: Any = None,
        mask_spec: MaskSpec = MaskSpec(),  # noqa: B008 - frozen
        loss_spec: LossSpec = LossSpec(),  # noqa: B008 - frozen
        weight_spec: WeightSpec | None = None,
        valid_region: Any = None,
        ignore: BoxBatch | Sequence[Any] | None = None,
        box_weights: Any = None,
        weights: Any = None,
        num_boxes: float | None = None,
        return_grad: bool = False,
    ) -> LossResult:
        """See `cass_client.CassClient.compute_loss`."""
        source = boxes, image_size, feature_map, mask_spec
        weighting = weight_spec, valid_region, ignore, box_weights
        options = loss_spec, weights, num_boxes, return_grad
        call = loss_call(logits, target, source, weighting, *options)
        return call.wrap(await self._run(self._loss_effects(call.inputs)))

    async def info(self) -> ServerInfo:
        """See `cass_client.CassClient.info`."""
        return await self._run(self._info_effects())

    async def profile(
        self,
        boxes: BoxBatch | Sequence[Any],
        image_size: Any,
        feature_map: Any,
        spec: MaskSpec = MaskSpec(),  # noqa: B008 - frozen
        *,
        dtype: Any = "float32",
    ) -> CallProfile:
        """See `cass_client.CassClient.profile`."""
        request = MaskRequest(boxes, image_size, feature_map, spec, dtype)
        return await self._run(self._profile_effects(request.check))

    async def close(self) -> None:
        """Close the connection; a later call opens it again."""
        await self._connection().close()

    async def _run(self, effects: Effects[T]) -> T:
        return await self._connection().run(effects)

    async def __aenter__(self) -> AsyncCassClient:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()


async def _asynchronously(requests: Iterable[MaskRequest]) -> AsyncIterator[MaskRequest]:
    for request in requests:
        yield request
