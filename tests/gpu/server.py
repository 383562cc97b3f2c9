"""What `make gpu-check` checks of a server on the device; on a CPU the tests run the same.

They need the packages of ``cass[server]`` as well, and start `cass-server` from the checkout.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any, get_args

import numpy as np

from cass_core import BoxBatch, LossSpec, MaskSpec
from cass_core.specs import LossKind
from cass_core.synthetic import street_boxes
from tests.gpu.faulty_server import ASSERT, FULL, HANG
from tests.gpu.setup import CELLS, SIZE, Setup, Skipped, close, same

_ROOT = Path(__file__).resolve().parents[2]
_SOURCES = [str(_ROOT / name) for name in ("", "proto", "client", "server", "cli")]
_NEEDED = (
    "grpc", "google.protobuf", "grpc_health", "grpc_status", "numba", "prometheus_client",
    "pydantic_settings", "typer",
)  # fmt: skip
_FAULTY = str(Path(__file__).with_name("faulty_server.py"))
_MAPS = ((92, 160), (46, 80), (23, 40))
_SPECS = (
    MaskSpec(patch_size=1),
    MaskSpec.baseline().replace(patch_size=1),
    MaskSpec(patch_size=1, merge="clipped_sum", decay_type="linear"),
)
# Seconds for what may have to compile, or to start a worker anew.
_PATIENCE = 120.0


def server_answers(setup: Setup) -> None:
    """Masks and losses from a server beside local ones: the same bits if it computes on a CPU.

    On a GPU float32 is within 1e-5 of them, and what is narrower within a step of its dtype.
    """
    boxes = BoxBatch.from_list(street_boxes(3, 12, image_size=SIZE))
    steps = {"float32": 1e-5, "float16": 2**-11 + 1e-5, "uint8": 1}
    with _serving(setup) as server, _clients(server) as (far, near):
        for spec, dtype in ((spec, dtype) for spec in _SPECS for dtype in steps):
            given = (boxes, SIZE, list(_MAPS), spec)
            found, expected = (c.generate_mask(*given, dtype=dtype) for c in (far, near))
            for one, other in zip(found, expected, strict=True):
                what = f"{spec}, {dtype}"
                if setup.native:
                    one, other = (mask.astype(np.float64) for mask in (one, other))
                    close(one, other, 0, steps[dtype], what)
                else:
                    same(one, other, what)
        logits = np.random.default_rng(0).normal(-2, 2, (3, *CELLS)).astype(np.float32)
        for kind in get_args(LossKind):
            arguments: dict[str, Any] = {
                "boxes": boxes, "image_size": SIZE, "feature_map": CELLS,
                "mask_spec": _SPECS[0], "loss_spec": LossSpec(kind=kind), "return_grad": True,
            }  # fmt: skip
            one, other = (c.compute_loss(logits, **arguments) for c in (far, near))
            if setup.native:
                close(one.loss, other.loss, 1e-5, 0, kind)
                close(one.grad, other.grad, 1e-4, 1e-5 * float(np.abs(other.grad).max()), kind)
            else:
                same(one.loss, other.loss, kind)
                same(one.grad, other.grad, kind)


def server_speed(setup: Setup) -> None:
    """Prints calls per second by the number of callers, without batching and with it."""
    strides = ("stride 32", "stride 8") if setup.native else ("stride 32",)
    seconds, numbers = (2.0, (1, 2, 8, 32)) if setup.native else (0.2, (1, 2))
    for options in ((), ("--batching",), ("--batching", "--batch-window-milliseconds", "1")):
        with _serving(setup, *options) as server:
            from benchmarks.common.callers import take_turn
            from benchmarks.common.workload import Case, request_of

            for stride, callers in product(strides, numbers):
                message = request_of(Case(stride, "uint8", callers, False))
                turn = take_turn(server.address, message, callers, seconds, lambda: 0.0)
                p50, p99 = 1e3 * float(np.median(turn.latencies)), 1e3 * turn.p99
                words = " ".join((f"{callers} callers", *options))
                print(
                    f"  {stride}, {words}: {turn.rate:.0f} calls/s,"
                    f" p50 {p50:.2f} ms, p99 {p99:.2f} ms",
                    flush=True,
                )
                assert turn.latencies


def server_first_calls(setup: Setup) -> None:
    """The first call with new options is slower; with kernels to compile, others do not wait.

    Starts with an empty cache of kernels, and prints the seconds of first and second calls.
    """
    boxes = BoxBatch.from_list(street_boxes(2, 5, image_size=SIZE))
    with (
        tempfile.TemporaryDirectory() as folder,
        _serving(setup, env={"TRITON_CACHE_DIR": folder}) as server,
        _clients(server) as (far, near),
    ):
        name, origin = "cass_kernel_variants_total", "compiled"
        before = _counted(server, name, origin)
        for temperature in ("fixed", "size_scaled", "small_gain"):
            # Of options that no server warms.
            spec = MaskSpec(patch_size=1, temperature=temperature, merge="clipped_sum")
            times = []
            for _ in range(2):
                begun = time.perf_counter()
                found = far.generate_mask(boxes, SIZE, CELLS, spec, return_owner=False)
                times.append(time.perf_counter() - begun)
                close(found, near.generate_mask(boxes, SIZE, CELLS, spec), 0, 1e-5, temperature)
            print(f"  {temperature}: {times[0]:.3f} s, then {times[1]:.3f} s", flush=True)
        compiled = _counted(server, name, origin) - before
        assert (compiled >= 3) == setup.native, f"{compiled} variants were compiled"


def server_faults(setup: Setup) -> None:
    """Full memory ends one request; a device that breaks or hangs has its worker replaced."""
    with _serving(setup, "--launch-timeout-seconds", "10", program=(_FAULTY, "serve")) as server:
        import grpc

        from tests.server.support.requests import mask_request

        def ends(images: int, code: str) -> None:
            found = "OK"
            with grpc.insecure_channel(server.address) as channel:
                call = channel.unary_unary(
                    "/cass.v1.CassService/GenerateMask",
                    request_serializer=lambda message: message.SerializeToString(),
                )
                try:
                    call(mask_request(images), timeout=_PATIENCE, wait_for_ready=True)
                except grpc.RpcError as error:
                    found = f"{error.code().name}: {error.details()}"
            assert found.startswith(code), f"{images} images: {found}"

        ends(1, "OK")
        ends(FULL, "RESOURCE_EXHAUSTED: the device has too little memory")
        ends(1, "OK")
        assert _counted(server, "cass_rejections_total", "memory") == 1
        assert _counted(server, "cass_worker_restarts_total") == 0
        fatal = (ASSERT, "request failed"), (HANG, "the device hangs")
        for restarts, (images, event) in enumerate(fatal):
            ends(images, "UNAVAILABLE")
            server.wait_for(event)
            server.wait_for("worker died")
            server.wait_for("worker ready")
            ends(1, "OK")
            assert _counted(server, "cass_worker_restarts_total") == restarts + 1
        assert server.stop() == 0


@contextlib.contextmanager
def _clients(server: Any) -> Iterator[tuple[Any, Any]]:
    """One of the server, and a local one."""
    from cass_client import CassClient

    with CassClient(server.address, timeout=_PATIENCE) as far, CassClient("local:") as near:
        yield far, near


def _counted(server: Any, name: str, *labels: str) -> float:
    """A metric of a server, by the values of its labels."""
    from tests.server.support.observed import scrape

    return sum(
        number
        for (found, pairs), number in scrape(server).items()
        if found == name and tuple(text for _, text in pairs) == labels
    )


@contextlib.contextmanager
def _serving(setup: Setup, *options: str, **others: Any) -> Iterator[Any]:
    """A server on the device that is serving."""
    missing = [name for name in _NEEDED if not _is_there(name)]
    if missing:
        raise Skipped(f"needs {', '.join(missing)} of cass[server]")
    sys.path += [path for path in _SOURCES if path not in sys.path]
    from tests.support.servers import serving

    path = os.pathsep.join([*_SOURCES, os.environ.get("PYTHONPATH", "")])
    env = {"PYTHONPATH": path, **others.pop("env", {})}
    # The last of two devices is taken.
    device = ("--device", str(setup.device), "--metrics-port", "0")
    with serving(*device, *options, env=env, **others) as server:
        yield server


def _is_there(name: str) -> bool:
    with contextlib.suppress(ModuleNotFoundError):
        return importlib.util.find_spec(name) is not None
    return False
