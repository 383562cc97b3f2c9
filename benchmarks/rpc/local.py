"""Calls to a server on this machine beside `local:` ones, interleaved, for a batch of 16 images."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from benchmarks.common.measure import interleaved
from benchmarks.common.workload import IMAGE_SIZE, IMAGES, MAPS, SPEC, boxes_of
from cass_client import CassClient, LossSpec

DTYPES = ("float32", "float16", "uint8")
_REPEATS = 20


def calls_of(client: CassClient, stride: str) -> dict[str, Callable[[], Any]]:
    """The calls of a training loop for one batch."""
    boxes, feature_map = boxes_of(stride)
    logits = np.random.default_rng(0).normal(-2, 2, (IMAGES, *feature_map)).astype(np.float32)
    masks = partial(client.generate_mask, boxes, IMAGE_SIZE, feature_map, SPEC)
    loss = partial(
        client.compute_loss, logits, boxes=boxes, image_size=IMAGE_SIZE, feature_map=feature_map,
        mask_spec=SPEC, loss_spec=LossSpec(), return_grad=True,
    )  # fmt: skip
    made: dict[str, Callable[[], Any]]
    made = {f"masks, {dtype}": partial(masks, dtype=dtype) for dtype in DTYPES}
    return made | {"loss and gradient": loss}


def measure(address: str, rounds: int) -> dict[str, dict[str, float]]:
    """Milliseconds of each call, by what makes it."""
    results = {}
    with CassClient(address) as remote, CassClient("local:") as local:
        for stride in MAPS:
            here, there = calls_of(local, stride), calls_of(remote, stride)
            for name in here:
                calls = {"local": (here[name], _REPEATS), "remote": (there[name], _REPEATS)}
                seconds = interleaved(calls, rounds)
                results[f"{stride}, {name}"] = {way: s * 1e3 for way, s in seconds.items()}
    return results
