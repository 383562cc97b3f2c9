"""The RPCs: a request is checked, computed in a thread and answered."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any, TypeVar

import grpc

from cass import wire
from cass.v1 import cass_pb2 as pb
from cass.v1 import cass_pb2_grpc
from cass_core import __version__
from cass_core.errors import InvalidRequest
from cass_server.engine import Engine
from cass_server.errors import bad_request
from cass_server.limits import Limits

Request = TypeVar("Request")
Response = TypeVar("Response")
Context = grpc.aio.ServicerContext[Any, Any]

_log = logging.getLogger(__name__)


class CassService(cass_pb2_grpc.CassServiceServicer):
    """Answers requests with an engine, within limits.

    Args:
        engine: where to compute.
        limits: the largest request taken.
        executor: threads in which requests are decoded, computed and encoded, so that the
            event loop stays free.
    """

    def __init__(self, engine: Engine, limits: Limits, executor: Executor) -> None:
        self._engine = engine
        self._limits = limits
        self._executor = executor

    async def GenerateMask(  # noqa: N802
        self, request: pb.GenerateMaskRequest, context: Context
    ) -> pb.GenerateMaskResponse:
        """Make the masks of a batch."""
        return await self._answer("GenerateMask", self._generate_mask, request, context)

    async def ComputeLoss(  # noqa: N802
        self, request: pb.ComputeLossRequest, context: Context
    ) -> pb.ComputeLossResponse:
        """Compute a loss and its gradient."""
        return await self._answer("ComputeLoss", self._compute_loss, request, context)

    async def GetServerInfo(  # noqa: N802
        self, request: pb.GetServerInfoRequest, context: Context
    ) -> pb.GetServerInfoResponse:
        """Tell version, device and limits."""
        limits = self._limits
        return pb.GetServerInfoResponse(
            version=__version__,
            device=self._engine.device,
            limits=pb.Limits(
                message_bytes=limits.message_bytes,
                images=limits.images,
                boxes=limits.boxes,
                patches=limits.patches,
                feature_maps=limits.feature_maps,
            ),
        )

    def _generate_mask(self, request: pb.GenerateMaskRequest) -> pb.GenerateMaskResponse:
        self._limits.check_message(request)
        inputs = wire.mask_inputs(request)
        self._limits.check_patches(inputs)
        masks, owners = self._engine.masks(inputs)
        return wire.mask_response(masks, owners, inputs.dtype)

    def _compute_loss(self, request: pb.ComputeLossRequest) -> pb.ComputeLossResponse:
        # The logits bound the work: they are in the message, and a mask must have their shape.
        self._limits.check_message(request.mask)
        inputs = wire.loss_inputs(request)
        return wire.loss_response(self._engine.losses(inputs), inputs.logits_dtype)

    async def _answer(
        self,
        method: str,
        compute: Callable[[Request], Response],
        request: Request,
        context: Context,
    ) -> Response:
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._executor, compute, request)
        except InvalidRequest as error:
            _log.warning(
                "request refused",
                extra={"method": method, "code": "INVALID_ARGUMENT", "reason": str(error)},
            )
            await context.abort_with_status(bad_request(error))
        except Exception:
            # The caller is told nothing of the inside; the log has it all.
            _log.exception("request failed", extra={"method": method, "code": "INTERNAL"})
            await context.abort(grpc.StatusCode.INTERNAL, "internal error; see the server's log")
        raise AssertionError("abort raises")
