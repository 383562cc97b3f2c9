"""Answers that are not what was requested: errors of the server's, never results."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from cass.codec.encode import MaskLayout
from cass.v1 import cass_pb2 as pb
from cass_client import (
    AsyncCassClient,
    CassClient,
    FallbackWarning,
    InvalidRequest,
    MaskRequest,
    ServerError,
)
from cass_core import generate_mask
from cass_core.synthetic import street_boxes
from tests.client.support.edited_answers import (
    Edit,
    EditingServer,
    array_of,
    cut,
    replaced,
    with_async_client,
    without,
)
from tests.client.support.small_servers import LIMIT, MaskService, serving_with, tensor
from tests.support.compare import same

pytestmark = pytest.mark.timeout(120)

SIZE = (96, 160)
# The answers are below and above the size from which tensors are read past protobuf.
LEVELS = {"small": [(6, 10), (3, 5)], "large": [(96, 160), (48, 80)]}
BOXES = street_boxes(2, 5, image_size=SIZE, seed=1)


def called(client: CassClient, wanted: MaskRequest) -> Any:
    return client.generate_mask(*arguments(wanted), **options(wanted))


def by_future(client: CassClient, wanted: MaskRequest) -> Any:
    return client.generate_mask_future(*arguments(wanted), **options(wanted)).result(LIMIT)


def by_stream(client: CassClient, wanted: MaskRequest) -> Any:
    (masks,) = client.stream_masks([wanted])
    return masks


def on_a_loop(client: CassClient, wanted: MaskRequest) -> Any:
    async def ask(client: AsyncCassClient) -> Any:
        return await client.generate_mask(*arguments(wanted), **options(wanted))

    return with_async_client(client, ask)


def by_async_stream(client: CassClient, wanted: MaskRequest) -> Any:
    async def ask(client: AsyncCassClient) -> Any:
        (masks,) = [masks async for masks in client.stream_masks([wanted])]
        return masks

    return with_async_client(client, ask)


def arguments(wanted: MaskRequest) -> tuple[Any, ...]:
    return wanted.boxes, wanted.image_size, wanted.feature_map, wanted.spec


def options(wanted: MaskRequest) -> dict[str, Any]:
    return {"dtype": wanted.dtype, "return_owner": wanted.return_owner}


WAYS = [called, by_future, by_stream, on_a_loop, by_async_stream]


def each(field: str, change: Callable[[pb.Tensor], Any]) -> Edit:
    """Changes the first tensor of a field."""

    def edit(answer: Any) -> Any:
        change(getattr(answer, field)[0])
        return answer

    return edit


def reshaped(*order: int) -> Callable[[pb.Tensor], Any]:
    """The sides in another order, and as many bytes."""

    def change(message: pb.Tensor) -> None:
        message.shape[:] = [message.shape[i] for i in order]

    return change


def set_to(**values: Any) -> Callable[[pb.Tensor], Any]:
    return lambda message: message.MergeFrom(pb.Tensor(**values))


def lengthened(message: pb.Tensor) -> None:
    message.data = message.data + bytes(4)


def levels_swapped(answer: Any) -> Any:
    masks = list(reversed(answer.masks))
    return pb.GenerateMaskResponse(masks=masks, owners=answer.owners)


def level_doubled(answer: Any) -> Any:
    answer.masks.append(answer.masks[1])
    return answer


def level_lost(field: str) -> Edit:
    def edit(answer: Any) -> Any:
        del getattr(answer, field)[1]
        return answer

    return edit


F = "requested float32 [2, {h}, {w}], got "
I = "requested int32 [2, {h}, {w}], got "  # noqa: E741 - the dtype
WRONG_MASKS: dict[str, tuple[Edit, str]] = {
    "not a message": (lambda _: b"\xff\xff", "answer: is not a cass.v1."),
    "no masks": (without("masks"), "masks: requested 2, got 0"),
    "a level missing": (level_lost("masks"), "masks: requested 2, got 1"),
    "a level too many": (level_doubled, "masks: requested 2, got 3"),
    "levels swapped": (levels_swapped, f"masks[0]: {F}float32 [2, {{h2}}, {{w2}}]"),
    "uint8": (
        each("masks", replaced(lambda a: (np.rint(255 * a).astype(np.uint8), "uint8"))),
        f"masks[0]: {F}uint8 [2, {{h}}, {{w}}]",
    ),
    "float16": (
        each("masks", replaced(lambda a: (a.astype(np.float16), "float16"))),
        f"masks[0]: {F}float16 [2, {{h}}, {{w}}]",
    ),
    "int32": (
        each("masks", set_to(dtype=pb.DATA_TYPE_INT32)),
        f"masks[0]: {F}int32 [2, {{h}}, {{w}}]",
    ),
    "unknown dtype": (
        each("masks", lambda m: m.MergeFromString(b"\x08\x63")),
        f"masks[0]: {F}dtype 99 [2, {{h}}, {{w}}]",
    ),
    "an image missing": (
        each("masks", replaced(lambda a: (a[:1], "float32"))),
        f"masks[0]: {F}float32 [1, {{h}}, {{w}}]",
    ),
    "an image too many": (
        each("masks", replaced(lambda a: (np.concatenate([a, a[:1]]), "float32"))),
        f"masks[0]: {F}float32 [3, {{h}}, {{w}}]",
    ),
    "transposed": (each("masks", reshaped(0, 2, 1)), f"masks[0]: {F}float32 [2, {{w}}, {{h}}]"),
    "flattened": (
        each("masks", replaced(lambda a: (a.reshape(2, -1), "float32"))),
        f"masks[0]: {F}float32 [2, {{hw}}]",
    ),
    "no image": (
        each("masks", replaced(lambda a: (a[:0], "float32"))),
        f"masks[0]: {F}float32 [0, {{h}}, {{w}}]",
    ),
    "a scalar": (
        each("masks", replaced(lambda a: (a[0, 0, 0], "float32"))),
        f"masks[0]: {F}float32 []",
    ),
    "many sides": (
        each("masks", lambda m: m.shape.extend([1] * 200)),
        f"masks[0]: {F}float32 [2, {{h}}, {{w}}, 1, 1, 1, 1, 1, ...]",
    ),
    "too few bytes": (each("masks", cut), "masks: has {short} bytes of data, "),
    "too many bytes": (each("masks", lengthened), "masks: has {long} bytes of data, "),
    "no bytes": (
        each("masks", lambda m: m.ClearField("data")),
        "masks: has 0 bytes of data, the shape [2, {h}, {w}] needs {bytes}",
    ),
    "no owners": (without("owners"), "owners: requested 2, got 0"),
    "an owner map missing": (level_lost("owners"), "owners: requested 2, got 1"),
    "owners as float32": (
        each("owners", set_to(dtype=pb.DATA_TYPE_FLOAT32)),
        f"owners[0]: {I}float32 [2, {{h}}, {{w}}]",
    ),
    "owners transposed": (
        each("owners", reshaped(0, 2, 1)),
        f"owners[0]: {I}int32 [2, {{w}}, {{h}}]",
    ),
    "owners too short": (each("owners", cut), "owners: has {short} bytes of data, "),
}


def wrong_text(text: str, levels: list[tuple[int, int]]) -> str:
    """The text of a row for these levels, as a pattern."""
    (h, w), (h2, w2) = levels
    size = 2 * h * w * 4
    sizes = {"bytes": size, "short": size - 4, "long": size + 4}
    return re.escape(text.format(h=h, w=w, h2=h2, w2=w2, hw=h * w, **sizes))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("levels", LEVELS.values(), ids=LEVELS)
@pytest.mark.parametrize(("edit", "text"), WRONG_MASKS.values(), ids=WRONG_MASKS)
def test_wrong_masks(editing: EditingServer, edit: Edit, text: str, levels: Any, way: Any) -> None:
    editing.edited(edit)
    wanted = MaskRequest(BOXES, SIZE, levels, return_owner=True)
    start = f"^{editing.address}: the answer does not fit the request: "
    with (
        CassClient(editing.address, timeout=LIMIT) as client,
        pytest.raises(ServerError, match=start + wrong_text(text, levels)) as caught,
    ):
        way(client, wanted)
    assert not isinstance(caught.value, InvalidRequest)
    assert len(editing.calls) == 1, "asked again"

    with CassClient(editing.address, timeout=LIMIT, fallback="local") as client:
        with pytest.warns(FallbackWarning, match=wrong_text(text, levels)):
            got = way(client, wanted)
        same(got, generate_mask(*arguments(wanted), **options(wanted)))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("levels", LEVELS.values(), ids=LEVELS)
@pytest.mark.parametrize("owner", [False, True])
def test_right_masks_however_laid_out(
    editing: EditingServer, levels: Any, owner: bool, way: Any
) -> None:
    wanted = MaskRequest(BOXES, SIZE, levels, return_owner=owner)
    with CassClient(editing.address, timeout=LIMIT) as client:
        same(way(client, wanted), generate_mask(*arguments(wanted), **options(wanted)))


@pytest.mark.parametrize("way", WAYS)
def test_owners_that_were_not_requested(editing: EditingServer, way: Any) -> None:
    def edit(answer: Any) -> Any:
        answer.owners.append(pb.Tensor(dtype=pb.DATA_TYPE_INT32, shape=[0]))
        return answer

    editing.edited(edit)
    with (
        CassClient(editing.address, timeout=LIMIT) as client,
        pytest.raises(ServerError, match=r"owners: requested 0, got 1$"),
    ):
        way(client, MaskRequest(BOXES, SIZE, (6, 10)))


@pytest.mark.parametrize(
    ("dtype", "other"),
    [("uint8", "float32"), ("float16", "bfloat16"), ("bfloat16", "float16"), ("float32", "uint8")],
)
@pytest.mark.parametrize("way", [called, by_stream])
def test_another_dtype_in_our_own_layout(
    editing: EditingServer, way: Any, dtype: str, other: str
) -> None:
    """As bytes that a server of ours would write for another request."""
    layout = MaskLayout([(2, 6, 10)], other, False, entry=way is by_stream)
    (array,), _, _ = layout.arrays()
    array[...] = 0
    editing.edited(lambda _: layout.message([array], []))
    boxes = [torch.from_numpy(b) for b in BOXES]
    with (
        CassClient(editing.address, timeout=LIMIT) as client,
        pytest.raises(
            ServerError, match=rf"requested {dtype} \[2, 6, 10\], got {other} \[2, 6, 10]"
        ),
    ):
        way(client, MaskRequest(boxes, SIZE, (6, 10), dtype=dtype))


@pytest.mark.parametrize("shape", [(2, 10, 6), (1, 12, 10), (1, 6, 10), (2, 6, 11)])
@pytest.mark.parametrize("way", [called, by_stream])
def test_another_shape_in_our_own_layout(
    editing: EditingServer, way: Any, shape: tuple[int, ...]
) -> None:
    layout = MaskLayout([shape], "float32", False, entry=way is by_stream)
    (array,), _, _ = layout.arrays()
    array[...] = 0
    editing.edited(lambda _: layout.message([array], []))
    with (
        CassClient(editing.address, timeout=LIMIT) as client,
        pytest.raises(ServerError, match=re.escape(f"got float32 {list(shape)}")),
    ):
        way(client, MaskRequest(BOXES, SIZE, (6, 10)))


def test_a_request_whose_answer_no_message_can_hold() -> None:
    with (
        serving_with(MaskService(answer=lambda *_: pb.GenerateMaskResponse())) as address,
        CassClient(address, timeout=LIMIT) as client,
        pytest.raises(ServerError, match=f"^{address}: the answer does not fit the request: "),
    ):
        client.generate_mask([None], SIZE, (30_000, 30_000))


@pytest.mark.parametrize("way", [called, on_a_loop])
def test_a_wrong_answer_to_a_part(editing: EditingServer, way: Any) -> None:
    """Of a batch that is requested in parts: the second one is answered for two images."""
    editing.info = pb.GetServerInfoResponse(limits=pb.Limits(images=1))
    parts: list[Any] = []

    def edit(answer: Any) -> Any:
        parts.append(answer)
        if len(parts) % 2 == 0:
            answer.masks[0].CopyFrom(
                tensor(np.concatenate([array_of(answer.masks[0])] * 2), "float32")
            )
        return answer

    def ask(client: CassClient) -> Any:
        client.info()
        return called(client, wanted)

    async def ask_on_a_loop(client: AsyncCassClient) -> Any:
        await client.info()
        return await client.generate_mask(*arguments(wanted))

    def run(client: CassClient) -> Any:
        return ask(client) if way is called else with_async_client(client, ask_on_a_loop)

    wanted = MaskRequest(BOXES, SIZE, (6, 10))
    right = generate_mask(*arguments(wanted))
    with (
        CassClient(editing.address, timeout=LIMIT) as client,
        CassClient(editing.address, timeout=LIMIT, fallback="local") as safe,
    ):
        same(run(client), right)
        editing.edited(edit)
        text = r"masks\[0\]: requested float32 \[1, 6, 10\], got float32 \[2, 6, 10\]"
        with pytest.raises(ServerError, match=text):
            run(client)
        with pytest.warns(FallbackWarning, match=text):
            same(run(safe), right)
    assert len(parts) == 4
