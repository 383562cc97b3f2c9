"""Masks at two levels and a loss with its gradient, by reflection, without generated code::

    pip install grpc-requests grpcio-status numpy
    python reflection.py localhost:50051 [SECONDS [EXPECTED]]

A call may take SECONDS with all its tries. EXPECTED is a file of the numbers to compare with.
"""

import base64
import random
import sys
import time
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from google.rpc import error_details_pb2
from grpc_requests import Client
from grpc_status import rpc_status

# Failures that another try may not meet: the server is full, away or stopping, or a proxy dropped
# the call. Every call is a pure function of its request, so that repeating it does no harm.
PASSING = ("RESOURCE_EXHAUSTED", "UNAVAILABLE", "CANCELLED")


def call(client: Client, method: str, request: dict[str, Any], seconds: float) -> Any:
    """The answer. One deadline holds for all tries; the server knows it and skips what is late."""
    end, delay = time.monotonic() + seconds, 0.02
    while True:
        options = {"timeout": max(end - time.monotonic(), 0.001), "raw_output": True}
        try:
            return client.request("cass.v1.CassService", method, request, **options)
        except grpc.RpcError as error:
            # Not before the server says, or ever later where it does not; not all callers at once.
            status, retry = rpc_status.from_call(error), error_details_pb2.RetryInfo()
            details = status.details if status else ()
            told = [retry.retry_delay.ToTimedelta() for one in details if one.Unpack(retry)]
            pause = (told[0].total_seconds() if told else delay) * random.uniform(1, 1.25)
            if error.code().name not in PASSING or time.monotonic() + pause >= end:
                raise
        time.sleep(pause)
        delay = min(2 * delay, 1.0)


def encoded(values: Any) -> str:
    """Little-endian float32 as JSON has bytes."""
    return base64.b64encode(np.asarray(values, "<f4").tobytes()).decode()


if __name__ == "__main__":
    address, seconds, expected = [*sys.argv[1:], None, None][:3]
    timeout = float(seconds or 10)
    # An answer may be larger than gRPC's 4 MiB.
    client = Client(address, channel_options=[("grpc.max_receive_message_length", -1)])

    # Two images of 480 x 640 pixels, with two boxes and one; strides 8 and 16.
    xyxy = [[100, 120, 140, 200], [300.5, 80, 420, 220], [600, 400, 660, 470]]
    images = {
        "boxes": {"xyxy": encoded(xyxy), "counts": [2, 1]},
        "image_sizes": {"heights": [480], "widths": [640]},
    }
    levels = [{"height": 60, "width": 80}, {"height": 30, "width": 40}]
    masks = call(client, "GenerateMask", {**images, "feature_maps": levels}, timeout).masks

    # Logits at stride 16, to be compared with a mask that the server makes from the same boxes.
    logits = encoded(np.arange(2 * 30 * 40) % 9 / 4 - 1)
    request = {
        "logits": {"dtype": "DATA_TYPE_FLOAT32", "shape": [2, 30, 40], "data": logits},
        "mask": {**images, "feature_maps": levels[1:]},
        "loss_spec": {"reduction": "REDUCTION_PER_OBJECT"},
        "return_grad": True,
    }
    answer = call(client, "ComputeLoss", request, timeout)
    print("loss", np.frombuffer(answer.loss.data, "<f4")[0])
    if expected:
        numbers = b"".join(tensor.data for tensor in (*masks, answer.loss, answer.grad))
        if numbers != Path(expected).read_bytes():
            sys.exit("other numbers than expected")
        print(len(numbers) // 4, "numbers as expected")
