"""Kernels are compiled for a GPU in processes of their own, without one, once for all servers.

The engine launches nothing here, but prepares all launches as for GPUs of two architectures.
"""

from __future__ import annotations

import os
import pickle
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.support.programs import LIMIT, printed

pytest.importorskip("triton", reason="needs Triton, which has wheels for Linux")

# In a process of its own: this one's kernels are the interpreter's.
PROGRAM = """
    import json, logging, sys
    import numpy as np
    from cass_core import BoxBatch, LossSpec, MaskSpec
    from cass_core.inputs import LossInputs, MaskInputs
    from cass_server.engines import compiler, kernel_cache
    from cass_server.engines.cuda import CudaEngine
    from cass_server.exceptions import NotCompiled
    from cass_server.observability.metrics import STARTS, Metrics

    boxes = BoxBatch.from_list([[[2, 2, 6, 6]], [[1, 1, 5, 7]]])
    one = MaskInputs.check(boxes, (8, 8), [(8, 16)], MaskSpec(patch_size=1), "uint8", False)
    same = MaskInputs.check(boxes, (64, 80), [(16, 32)], MaskSpec(patch_size=1), "uint8", False)
    narrow = [(1, 8), (8, 1)]
    single = MaskInputs.check(boxes, (8, 8), narrow, MaskSpec(patch_size=1), "uint8", False)
    compiled, metrics = [], Metrics()
    compile_one = compiler.Compiler.compile
    compiler.Compiler.compile = lambda self, v: (compiled.append(v.name), compile_one(self, v))

    def attempts(call):
        tries = 0
        while True:
            tries += 1
            try:
                call()
                return tries
            except NotCompiled as error:
                missing = error.compile
            missing()

    def masks(inputs):
        empty = [np.empty(shape, np.uint8) for shape in inputs.shapes()]
        return lambda: engine.masks(inputs, empty, [])

    logging.basicConfig(level=logging.INFO, stream=sys.stderr)
    engine = CudaEngine("cpu", compilers=1)
    engine.watch(metrics, lambda: None)
    with kernel_cache.launching_nothing(90):
        tries = [attempts(masks(inputs)) for inputs in (one, same, single, one)]
    with kernel_cache.launching_nothing(80):
        tries.append(attempts(masks(one)))
    engine.close()
    first = STARTS["cass_kernel_variants_total"]
    print(json.dumps([tries, compiled, list(metrics.slots[first : first + 2])]))
"""


@pytest.mark.timeout(900)
@pytest.mark.slow
def test_variants_are_compiled_aside_and_once(tmp_path: Path) -> None:
    """A request that needs one is made again; another server finds it in the cache."""
    environment = {"TRITON_CACHE_DIR": str(tmp_path), "TRITON_INTERPRET": "0"}
    first = printed("-c", PROGRAM, env=environment, limit=400)
    kernel = "_mask_kernel"
    assert first.strip() == f'[[2, 1, 2, 1, 2], ["{kernel}", "{kernel}", "{kernel}"], [0.0, 3.0]]'
    again = printed("-c", PROGRAM, env=environment, limit=400)
    assert again.strip() == "[[1, 1, 1, 1, 1], [], [3.0, 0.0]]"
    # As `docker/start.py` does it: the lists of files alone.
    for found in tmp_path.glob("*/__grp__*"):
        elsewhere = tmp_path / "elsewhere" / found.relative_to(tmp_path)
        elsewhere.parent.mkdir(parents=True)
        shutil.copy(found, elsewhere)
    environment["TRITON_CACHE_DIR"] = str(tmp_path / "elsewhere")
    assert printed("-c", PROGRAM, env=environment, limit=400) == again


BROKEN = """
    import pickle, sys
    pickle.load(sys.stdin.buffer)
    {does}
"""


@pytest.mark.parametrize(
    ("does", "told"),
    [
        ("pickle.dump('CompilationError: at 1:1', sys.stdout.buffer)", "CompilationError: at 1:1"),
        ("sys.exit(3)", "EOFError"),
        ("sys.stdout.write('no pickle')", "Error"),
    ],
)
def test_what_cannot_be_compiled_aside_is_logged(
    does: str, told: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The launch then compiles it, or raises what is wrong with it; the next one is tried anew."""
    from cass_server.engines.compiler import Compiler
    from cass_server.engines.variants import Variant

    variant, seconds = Variant("some.module", "kernel", {}, {}, {}, {}, ("cuda", 90, 32)), []
    program = "\n".join(line.strip() for line in BROKEN.format(does=does).splitlines())
    compiler = Compiler(1, seconds.append, (sys.executable, "-c", program))
    for _ in range(2):
        compiler.compile(variant)
    compiler.close()
    assert not seconds
    assert [record.getMessage() for record in caplog.records] == [
        "a kernel cannot be compiled aside"
    ] * 2
    assert told in vars(caplog.records[0])["reason"]


@pytest.mark.slow
def test_a_compiler_whose_server_has_ended_ends_in_silence() -> None:
    """Also if that was while it compiled: nobody takes the answer."""
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "cass_server.engines.compiler"],
        input=pickle.dumps("no variant, whose error is the answer"),
        stdout=write,
        stderr=subprocess.PIPE,
        timeout=LIMIT,
        check=False,
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_compiler_that_does_not_end_by_itself_is_ended() -> None:
    from cass_server.engines.compiler import Compiler
    from cass_server.engines.variants import Variant

    program = """
        import pickle, signal, sys
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        pickle.load(sys.stdin.buffer)
        pickle.dump("", sys.stdout.buffer)
        sys.stdout.flush()
        signal.pause()
    """
    compiled: list[float] = []
    compiler = Compiler(1, compiled.append, (sys.executable, "-c", textwrap.dedent(program)))
    compiler.compile(Variant("some.module", "kernel", {}, {}, {}, {}, ("cuda", 90, 32)))
    assert len(compiled) == 1
    process = compiler._free.queue[-1]
    compiler.close()
    assert process is not None
    assert process._process.returncode == -signal.SIGKILL


def test_a_compiler_that_cannot_start_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    from cass_server.engines.compiler import Compiler
    from cass_server.engines.variants import Variant

    variant = Variant("some.module", "kernel", {}, {}, {}, {}, ("cuda", 90, 32))
    compiler = Compiler(1, lambda _: None, ("/no/such/program",))
    compiler.compile(variant)
    assert "No such file" in vars(caplog.records[0])["reason"]
