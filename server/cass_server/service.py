"""The RPCs: a request is checked, computed in a thread and answered."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any, TypeVar

import grpc
from google.protobuf.message import DecodeError, Message

from cass import wire
from cass.v1 import cass_pb2 as pb
from cass_core import __version__
from cass_core.errors import InvalidRequest
from cass_server.engine import Engine
from cass_server.errors import bad_request
from cass_server.limits import Limits

Request = TypeVar("Request", bound=Message)
Compute = Callable[[Request], Message]
Context = grpc.aio.ServicerContext[Any, Any]

SERVICE_NAME = pb.DESCRIPTOR.services_by_name["CassService"].full_name

_log = logging.getLogger(__name__)


class CassService:
    """Answers requests with an engine, within limits.

    Args:
        engine: where to compute.
        limits: the largest request taken.
        executor: threads in which requests are parsed, computed and serialised, so that the
            event loop stays free.
    """

    def __init__(self, engine: Engine, limits: Limits, executor: Executor) -> None:
        self._engine = engine
        self._limits = limits
        self._executor = executor

    def add_to(self, server: grpc.aio.Server) -> None:
        """Register the RPCs.

        Not by the generated function: that parses requests on the event loop, and answers bytes
        that are no message with UNKNOWN and a traceback in the log.
        """
        handle = self._handler
        handlers = {
            "GenerateMask": handle("GenerateMask", pb.GenerateMaskRequest, self._generate_mask),
            "ComputeLoss": handle("ComputeLoss", pb.ComputeLossRequest, self._compute_loss),
            "GetServerInfo": handle("GetServerInfo", pb.GetServerInfoRequest, self._server_info),
        }
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(SERVICE_NAME, handlers),)
        )

    def _server_info(self, request: pb.GetServerInfoRequest) -> pb.GetServerInfoResponse:
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

    def _handler(
        self, method: str, kind: type[Request], compute: Compute[Request]
    ) -> grpc.RpcMethodHandler[bytes, bytes]:
        def answer_bytes(data: bytes) -> bytes:
            try:
                request = kind.FromString(data)
            except DecodeError:
                raise InvalidRequest("request", f"is not a {kind.DESCRIPTOR.full_name}") from None
            return compute(request).SerializeToString()

        async def answer(data: bytes, context: Context) -> bytes:
            loop = asyncio.get_running_loop()
            try:
                return await loop.run_in_executor(self._executor, answer_bytes, data)
            except InvalidRequest as error:
                _log.warning(
                    "request refused",
                    extra={"method": method, "code": "INVALID_ARGUMENT", "reason": str(error)},
                )
                await context.abort_with_status(bad_request(error))
            except Exception:
                # The caller is told nothing of the inside; the log has it all.
                _log.exception("request failed", extra={"method": method, "code": "INTERNAL"})
                await context.abort(
                    grpc.StatusCode.INTERNAL, "internal error; see the server's log"
                )
            raise AssertionError("abort raises")

        return grpc.unary_unary_rpc_method_handler(answer)
