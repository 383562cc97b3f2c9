"""AsyncCassClient beside CassClient: the same answers and the same errors."""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import AsyncIterator, Callable
from typing import Any

import numpy as np
import pytest

from cass_client import (
    AsyncCassClient,
    BoxBatch,
    CassClient,
    CassError,
    FallbackWarning,
    InvalidRequest,
    MaskRequest,
    MaskSpec,
    ServerInfo,
    Unavailable,
)
from cass_core.synthetic import street_boxes
from tests.server.support.processes import free_port
from tests.support.compare import same
from tests.support.servers import serving

SIZE, MAP = (96, 160), (12, 20)
BOXES = street_boxes(3, 6, image_size=SIZE, seed=1)
SPEC = MaskSpec(patch_size=1)
LOGITS = np.zeros((3, 12, 20), np.float32)
CALLS: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = [
    ("generate_mask", (BOXES, SIZE, MAP, SPEC), {}),
    ("generate_mask", (BOXES, SIZE, [MAP, (6, 10)], SPEC), {"return_owner": True}),
    ("generate_mask", (BOXES, SIZE, MAP), {"dtype": "float99"}),
    (
        "compute_loss",
        (LOGITS,),
        {"boxes": BOXES, "image_size": SIZE, "feature_map": MAP, "mask_spec": SPEC},
    ),
    ("compute_loss", (LOGITS,), {}),
    ("info", (), {}),
]


# Not made locally, where there are no limits.
TOO_LARGE = ("generate_mask", (BOXES, SIZE, (100000, 100000)), {})


def outcome(call: Callable[[], Any]) -> Any:
    """What it returns, or the error that it raises."""
    try:
        return call()
    except CassError as error:
        return error


def plain(answer: Any) -> Any:
    """What `same` takes."""
    return [answer.loss, answer.sum] if hasattr(answer, "loss") else answer


@pytest.mark.parametrize(
    "call", [*((c, local) for c in CALLS for local in (False, True)), (TOO_LARGE, False)]
)
def test_same_answers_and_errors(address: str, call: Any) -> None:
    (name, arguments, options), local = call
    target = "local:" if local else address

    def ask() -> Any:
        with CassClient(target, timeout=60) as client:
            return plain(getattr(client, name)(*arguments, **options))

    async def ask_async() -> Any:
        async with AsyncCassClient(target, timeout=60) as client:
            return plain(await getattr(client, name)(*arguments, **options))

    got, expected = outcome(lambda: asyncio.run(ask_async())), outcome(ask)
    if isinstance(expected, CassError):
        assert (type(got), str(got)) == (type(expected), str(expected))
    elif isinstance(expected, ServerInfo):
        assert got == expected
    else:
        same(got, expected)


@pytest.mark.parametrize("local", [False, True])
def test_streams(address: str, local: bool) -> None:
    boxes = [street_boxes(2, i, image_size=SIZE, seed=i) for i in range(30)]
    requests = [MaskRequest(b, SIZE, MAP, SPEC) for b in boxes]

    async def asynchronous() -> AsyncIterator[MaskRequest]:
        for request in requests:
            await asyncio.sleep(0)
            yield request

    async def ask() -> None:
        async with AsyncCassClient("local:" if local else address, timeout=60) as client:
            for source in (requests, asynchronous()):
                got = [masks async for masks in client.stream_masks(source, in_flight=3)]
                same(got, expected)
            same(await client.generate_mask(boxes[1], SIZE, MAP, SPEC), expected[1])

    with CassClient("local:") as reference:
        expected = [reference.generate_mask(b, SIZE, MAP, SPEC) for b in boxes]
    asyncio.run(ask())


def test_a_future_is_of_the_arguments_as_they_were() -> None:
    """A caller may refill its arrays before the loop gets to the call."""
    boxes, regions = np.array([[8.0, 8, 24, 24]]), np.array([[0.0, 0, 32, 32]])
    packed = BoxBatch.from_list([boxes.copy()])
    weighing: dict[str, Any] = {"valid_region": regions, "return_weights": True}

    async def ask() -> list[Any]:
        async with AsyncCassClient("local:") as client:
            tasks = [client.generate_mask_future(b, (32, 32), (8, 8)) for b in ([boxes], packed)]
            tasks.append(client.generate_mask_future([boxes], (32, 32), (8, 8), **weighing))
            for array in (boxes, packed.xyxy, regions):
                array[:] = [[0, 0, 4, 4]]
            with pytest.raises(InvalidRequest, match="dtype"):
                client.generate_mask_future([boxes], (32, 32), (8, 8), dtype="float99")
            return await asyncio.gather(*tasks)

    with CassClient("local:") as reference:
        given = [boxes.copy()], (32, 32), (8, 8)
        expected = reference.generate_mask(*given)
        weighed = reference.generate_mask(*given, **{**weighing, "valid_region": regions.copy()})
    found = asyncio.run(ask())
    same(found[0], expected)
    same(found[1], expected)
    same(list(found[2]), list(weighed))


def test_many_at_once(address: str) -> None:
    async def ask() -> None:
        async with AsyncCassClient(address, timeout=60) as client:
            tasks = [client.generate_mask_future(BOXES, SIZE, MAP, SPEC) for _ in range(50)]
            for masks in await asyncio.gather(*tasks):
                same(masks, expected)

    with CassClient("local:") as reference:
        expected = reference.generate_mask(BOXES, SIZE, MAP, SPEC)
    asyncio.run(ask())


def test_one_client_in_one_loop_after_another(address: str) -> None:
    client = AsyncCassClient(address, timeout=60)
    for usable in (client, client, pickle.loads(pickle.dumps(client))):
        assert asyncio.run(usable.info()).device == "cpu"


def test_fallback_and_back() -> None:
    port = free_port()
    target = f"127.0.0.1:{port}"

    async def ask() -> None:
        with pytest.raises(Unavailable):
            await AsyncCassClient(target, timeout=60).info()
        async with AsyncCassClient(target, timeout=60, fallback="local") as client:
            with pytest.warns(FallbackWarning, match="computed in this process"):
                same(await client.generate_mask(BOXES, SIZE, MAP, SPEC), expected)
            requests = [MaskRequest(BOXES, SIZE, MAP, SPEC)] * 3
            same([masks async for masks in client.stream_masks(requests)], [expected] * 3)
            assert client.local_answers == 4
            with serving("--port", str(port)):
                # By the probe of a later call.
                for _ in range(600):
                    local = client.local_answers
                    same(await client.generate_mask(BOXES, SIZE, MAP, SPEC), expected)
                    if client.local_answers == local:
                        break
                    await asyncio.sleep(0.1)
                assert client.local_answers == local

    with CassClient("local:") as reference:
        expected = reference.generate_mask(BOXES, SIZE, MAP, SPEC)
    asyncio.run(ask())
