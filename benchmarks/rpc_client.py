"""The client's side of `make bench-rpc`: processor time of a call beside the generated stub's."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from statistics import median
from typing import Any

import grpc
import numpy as np

from benchmarks.rpc_servers import SPEC
from cass import specs
from cass.v1 import cass_pb2 as pb
from cass.v1 import cass_pb2_grpc
from cass_client import CassClient
from cass_core.scenes import street_boxes

IMAGES, IMAGE_SIZE = 16, (736, 1280)
MAPS = {"stride 32": ((23, 40), 15), "stride 8": ((92, 160), 30)}
DTYPES = {"float32": pb.DATA_TYPE_FLOAT32, "uint8": pb.DATA_TYPE_UINT8}
# Of our client's to the stub's.
CLIENT_BOUND = 1.25
_CALLS_A_TURN = 50


def time_clients(address: str, rounds: int) -> dict[str, dict[str, float]]:
    """Microseconds of this process's CPU time a call, by case; the two take turns."""
    results = {}
    options = (("grpc.max_receive_message_length", -1), ("grpc.use_local_subchannel_pool", 1))
    with CassClient(address) as client, grpc.insecure_channel(address, options) as channel:
        stub: Any = cass_pb2_grpc.CassServiceStub(channel)  # type: ignore[no-untyped-call]
        for stride, (feature_map, boxes) in MAPS.items():
            arrays = street_boxes(IMAGES, boxes, image_size=IMAGE_SIZE)
            for dtype in DTYPES:
                ours = partial(
                    client.generate_mask, arrays, IMAGE_SIZE, feature_map, SPEC, dtype=dtype
                )
                bare = partial(_bare, stub, arrays, feature_map, dtype)
                if not np.array_equal(ours(), bare()):
                    raise SystemExit(f"{stride}, {dtype}: the two clients' masks differ")
                results[f"{stride}, {dtype}"] = _turns(ours, bare, rounds)
    return results


def _bare(stub: Any, arrays: list[Any], feature_map: tuple[int, int], dtype: str) -> Any:
    """What a caller without an SDK writes: no checks, and an array that cannot be written to."""
    height, width = feature_map
    request = pb.GenerateMaskRequest(
        boxes=pb.BoxBatch(xyxy=np.concatenate(arrays).tobytes(), counts=[len(a) for a in arrays]),
        image_sizes=pb.ImageSizes(heights=IMAGE_SIZE[:1], widths=IMAGE_SIZE[1:]),
        feature_maps=[pb.FeatureMap(height=height, width=width)],
        mask_spec=specs.mask_spec_message(SPEC),
        dtype=DTYPES[dtype],
    )
    (tensor,) = stub.GenerateMask(request, timeout=60).masks
    return np.frombuffer(tensor.data, dtype).reshape(tensor.shape)


def _turns(ours: Callable[[], object], bare: Callable[[], object], rounds: int) -> dict[str, float]:
    used: dict[str, list[float]] = {"ours": [], "bare": []}
    for _ in range(rounds):
        for name, call in (("ours", ours), ("bare", bare)):
            start = time.process_time()
            for _ in range(_CALLS_A_TURN):
                call()
            used[name].append((time.process_time() - start) / _CALLS_A_TURN * 1e6)
    ratios = [a / b for a, b in zip(used["ours"], used["bare"], strict=True)]
    return {"ours": median(used["ours"]), "bare": median(used["bare"]), "ratio": median(ratios)}
