"""A program with callers through the SDK, beside an attack: each answer is compared to the byte.

    python good_callers.py TARGET CALLERS TOKEN

It prints a line of JSON for each answer, "[ended, seconds]" on the monotonic clock, and a string
for each failure and each wrong answer; it ends at the end of standard input.
"""

from __future__ import annotations

import itertools
import json
import sys
import threading
import time

import numpy as np

from cass_client import CassClient
from tests.client.support.faults import ask, expected

_SEEDS = range(8)
# Callers that compute in between: they do not load a server by themselves.
_PAUSE_SECONDS = 0.005
# Of a call with all its retries: beyond it somebody holds the service.
_TIMEOUT_SECONDS = 30.0


def main() -> None:
    """Call until standard input ends."""
    target, number, token = sys.argv[1], int(sys.argv[2]), sys.argv[3] or None
    right, lock = [expected(seed) for seed in _SEEDS], threading.Lock()

    def tell(found: object) -> None:
        with lock:
            print(json.dumps(found), flush=True)

    def call() -> None:
        with CassClient(target, timeout=_TIMEOUT_SECONDS, token=token) as client:
            for seed in itertools.cycle(_SEEDS):
                began = time.monotonic()
                try:
                    np.testing.assert_array_equal(ask(client, seed), right[seed])
                except Exception as error:
                    tell(repr(error))
                else:
                    ended = time.monotonic()
                    tell([ended, ended - began])
                time.sleep(_PAUSE_SECONDS)

    for _ in range(number):
        threading.Thread(target=call, daemon=True).start()
    sys.stdin.read()


if __name__ == "__main__":
    main()
