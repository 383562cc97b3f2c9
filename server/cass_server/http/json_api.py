"""The paths for JSON: masks, losses, what the server is, presets, health."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import asdict
from functools import partial
from typing import Any, NamedTuple

from pydantic_core import to_json

from cass_core.specs import LossSpec, MaskSpec, WeightSpec
from cass_server.exceptions import Cancelled, Expired
from cass_server.http.calls import JSON_SHARE, Calls, Failed
from cass_server.http.errors import WrongMethod, WrongType
from cass_server.http.exchange import Exchange
from cass_server.http.json_requests import PRESETS, JsonMaskReader, read_json_loss
from cass_server.http.openapi import document
from cass_server.rpc.requests import Reader
from cass_server.rpc.servicer import server_info

MAX_JSON_BYTES = 4 << 20
"""The most bytes of a request in JSON. No other Python thread runs while it is parsed, which takes
a tenth of a second for so many."""


class Route(NamedTuple):
    """What answers requests to a path.

    Attributes:
        method: of HTTP; HEAD is fine where GET is.
        rpc: the RPC that requests are counted as; empty if they are not.
        answer: sends the answer.
    """

    method: str
    rpc: str
    answer: Callable[[Exchange], Awaitable[None]]


class JsonApi:
    """Answers in JSON, by ``paths``."""

    def __init__(self, calls: Calls, is_serving: Callable[[], bool]) -> None:
        self._calls = calls
        self._is_serving = is_serving
        engine, limits = calls.answerer.engine, calls.limits
        masks = JsonMaskReader(limits, engine.small_fill)
        losses = partial(read_json_loss, limits=limits)
        self._info = to_json(_info(engine.device, calls))
        self.paths = {
            "/v1/masks": self._computed("GenerateMask", masks),
            "/v1/loss": self._computed("ComputeLoss", losses),
            "/v1/info": Route("GET", "GetServerInfo", self._answer_info),
            "/v1/presets": Route("GET", "", partial(_answer, body=to_json(_presets()))),
            "/healthz": Route("GET", "", self._answer_health),
            "/openapi.json": Route("GET", "", partial(_answer, body=to_json(document()))),
        }

    async def answer(self, route: Route, exchange: Exchange) -> None:
        """Answer a request to the path of a route."""
        method = exchange.scope["method"]
        if method != route.method and (route.method, method) != ("GET", "HEAD"):
            await exchange.fail(WrongMethod(route.method))
            return
        if not route.rpc:
            await route.answer(exchange)
            return
        exchange.take_deadline()
        try:
            if route.method == "POST":
                _check_type(exchange)
            self._calls.check(route.rpc, exchange)
            await route.answer(exchange)
        except Failed as failed:
            await exchange.fail(failed.cause, failed.identity)
        except OSError:  # of the connection: nobody takes an answer
            raise
        except Exception as error:
            await exchange.fail(error, self._calls.refuse(route.rpc, exchange, error))

    def _computed(self, rpc: str, read: Reader) -> Route:
        async def answer(exchange: Exchange) -> None:
            most = min(self._calls.limits.message_bytes, MAX_JSON_BYTES)
            data = await exchange.body(most)
            computing = self._calls.compute(rpc, read, data, exchange, share=JSON_SHARE)
            try:
                body = await exchange.unless_gone(computing)
            except (Cancelled, Expired) as error:  # which the thread that computes counts
                raise Failed(error, "") from None
            await exchange.answer(200, body)

        return Route("POST", rpc, answer)

    async def _answer_info(self, exchange: Exchange) -> None:
        self._calls.note("GetServerInfo", exchange, 0, len(self._info))
        await exchange.answer(200, self._info)

    async def _answer_health(self, exchange: Exchange) -> None:
        status = "SERVING" if self._is_serving() else "NOT_SERVING"
        code = 200 if status == "SERVING" else 503
        await exchange.answer(code, to_json({"status": status}), (("cache-control", "no-store"),))


async def _answer(exchange: Exchange, body: bytes) -> None:
    await exchange.answer(200, body)


def _check_type(exchange: Exchange) -> None:
    """Rejects what any page may send, even one of another origin, and what is compressed."""
    kind = exchange.header("content-type").partition(";")[0].strip().lower()
    encoding = exchange.header("content-encoding").lower()
    if kind != "application/json" or encoding not in ("", "identity"):
        raise WrongType


def _info(device: str, calls: Calls) -> dict[str, Any]:
    message = server_info(device, calls.limits)
    return {
        "version": message.version,
        "device": message.device,
        "limits": {
            **{field.name: value for field, value in message.limits.ListFields()},
            "json_bytes": min(calls.limits.message_bytes, MAX_JSON_BYTES),
        },
        "features": list(message.features),
    }


def _presets() -> dict[str, Any]:
    kinds: dict[str, Any] = {"mask_spec": MaskSpec, "loss_spec": LossSpec}
    named = {
        name: {preset: asdict(getattr(kind, preset)()) for preset in PRESETS}
        for name, kind in kinds.items()
    }
    # Of weights the recommended preset is not the default.
    weights = {"default": WeightSpec(), "recommended": WeightSpec.recommended()}
    return {**named, "weight_spec": {name: asdict(spec) for name, spec in weights.items()}}
