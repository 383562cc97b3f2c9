"""The engine for GPUs, its kernels through Triton's interpreter on the CPU: it agrees with the
engine for CPUs, writes results where they belong, and a broken device is not used again."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from cass_core import BoxBatch, InvalidRequest, LossSpec, MaskSpec, WeightSpec, compute_loss
from cass_core.arrays import Array, from_host, storage_dtype
from cass_core.inputs import LossInputs, MaskInputs
from cass_core.results import HostLoss
from cass_core.synthetic import street_boxes
from cass_server.engines import cuda
from cass_server.engines.base import CpuEngine, Engine
from cass_server.engines.cuda import CudaEngine
from cass_server.engines.faults import is_breaking
from cass_server.exceptions import DeviceFull, EngineBroken
from cass_server.observability.metrics import Metrics
from cass_server.scheduling.batcher import merge
from tests.server.support.processes import LIMIT, Gate
from tests.support.interpreted import kernels

pytest.importorskip("triton", reason="needs Triton, which has wheels for Linux")

SIZE = (96, 160)
MAP = (12, 20)
STREET = street_boxes(2, 3, image_size=SIZE, seed=3)
NO_BOXES = np.empty((0, 4), np.float32)
KINDS = ("mse", "bce", "focal", "cornernet", "quality_focal", "varifocal")
BROKEN = "CUDA error: an illegal memory access was encountered"


@pytest.fixture(autouse=True)
def _kernels_on_the_cpu() -> Iterator[None]:
    """`CudaEngine("cpu")` runs the GPU's kernels through the interpreter."""
    with kernels():
        yield


def mask_inputs(
    boxes: Any = (*STREET, NO_BOXES), image_size: Any = SIZE, **changes: Any
) -> MaskInputs:
    arguments: dict[str, Any] = {
        "feature_map": [MAP, (6, 10)],
        "spec": MaskSpec(patch_size=1),
        "dtype": "float32",
        "return_owner": False,
    } | changes
    # As tensors, so that bfloat16 may be asked for.
    batch = BoxBatch.from_list([torch.from_numpy(b) for b in boxes])
    return MaskInputs.check(batch, image_size, **arguments)


def arrays(inputs: MaskInputs) -> tuple[list[Array], list[Array]]:
    """To be filled."""
    masks = [np.full(shape, 77, storage_dtype(inputs.dtype)) for shape in inputs.shapes()]
    return masks, [np.full(m.shape, 77, np.int32) for m in masks] if inputs.return_owner else []


def masks_of(engine: Engine, inputs: MaskInputs) -> tuple[list[Array], list[Array]]:
    filled = arrays(inputs)
    engine.masks(inputs, *filled, None)
    return filled


def loss_of(engine: Engine, inputs: LossInputs) -> HostLoss:
    """The result, of the shapes and dtypes of an answer."""
    result = engine.losses(inputs, None)
    shape = inputs.logits.shape
    assert result.loss.dtype == (np.float64 if inputs.logits_dtype == "float64" else np.float32)
    assert result.loss.shape == (shape if inputs.spec.reduction == "none" else ())
    assert (result.grad is not None) == inputs.return_grad
    if result.grad is not None:
        assert result.grad.dtype == storage_dtype(inputs.logits_dtype)
        assert result.grad.shape == shape
    return result


def ramp(dtype: str) -> torch.Tensor:
    """Logits for MAP, from unlikely to likely."""
    return torch.linspace(-6, 6, 3 * 12 * 20).reshape(3, *MAP).to(getattr(torch, dtype))


def targets(dtype: str) -> torch.Tensor:
    """Values in [0, 1], both ends among them, in the shape of `ramp`."""
    steps = (torch.arange(3 * 12 * 20) % 256).reshape(3, *MAP)
    return steps.to(torch.uint8) if dtype == "uint8" else (steps / 255).to(getattr(torch, dtype))


def numbers(array: Array, dtype: str) -> Array:
    value: Any = from_host(array, dtype, as_tensor=True)
    return value.double().numpy()


def agreeing(inputs: LossInputs, rtol: float, atol: float) -> list[HostLoss]:
    """The losses of both engines, whose gradients agree so closely."""
    found = [loss_of(engine, inputs) for engine in (CpuEngine(), CudaEngine("cpu"))]
    loose = atol if inputs.spec.reduction == "none" else 0
    np.testing.assert_allclose(*(result.loss for result in found), rtol=1e-6, atol=loose)
    gradients = [numbers(result.grad, inputs.logits_dtype) for result in found]
    np.testing.assert_allclose(*gradients, rtol=rtol, atol=atol)
    return found


@pytest.mark.parametrize(
    ("dtype", "step"), [("float32", 1e-6), ("float16", 5e-4), ("bfloat16", 4e-3), ("uint8", 1)]
)
def test_masks_and_owners_agree(dtype: str, step: float) -> None:
    """Masks to one step of the dtype: a value may be rounded to either side."""
    inputs = mask_inputs(dtype=dtype, return_owner=True)
    ours, our_owners = masks_of(CpuEngine(), inputs)
    theirs, their_owners = masks_of(CudaEngine("cpu"), inputs)
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(numbers(a, dtype), numbers(b, dtype), atol=step)
        assert a.max() > 0
    for a, b in zip(our_owners, their_owners, strict=True):
        np.testing.assert_array_equal(a, b)
        assert a.max() >= 1


@pytest.mark.parametrize("return_owner", [False, True])
def test_many_requests_at_once(return_owner: bool) -> None:
    """Each gets its own images of every feature map."""
    requests = [
        mask_inputs([STREET[0], NO_BOXES], return_owner=return_owner),
        mask_inputs([], [], return_owner=return_owner),
        mask_inputs([STREET[1]], (90, 150), return_owner=return_owner),
    ]
    outputs = [arrays(request) for request in requests]
    CudaEngine("cpu").fill_batch(merge(requests), outputs)
    for request, (masks, owners) in zip(requests, outputs, strict=True):
        ours, our_owners = masks_of(CpuEngine(), request)
        for a, b in zip((*ours, *our_owners), (*masks, *owners), strict=True):
            np.testing.assert_allclose(a, b, atol=1e-6)


def test_arrays_may_lie_anywhere_in_a_message() -> None:
    """Logits are read-only bytes, and results go to any place among others."""
    engine = CudaEngine("cpu")
    inputs = mask_inputs(feature_map=MAP)
    expected, _ = masks_of(engine, inputs)
    message = bytearray(b"-" * (expected[0].nbytes + 5))
    place = np.frombuffer(message, np.float32, expected[0].size, offset=3)
    engine.masks(inputs, [place.reshape(expected[0].shape)], [])
    assert bytes(message) == b"---" + expected[0].tobytes() + b"--"
    read_only = np.frombuffer(ramp("float32").numpy().tobytes(), np.float32).reshape(3, *MAP)
    loss = LossInputs.check(read_only, None, LossSpec(), None, True, inputs)
    agreeing(loss, 1e-5, 1e-7)


def test_no_images() -> None:
    inputs = mask_inputs([], return_owner=True)
    masks, owners = masks_of(CudaEngine("cpu"), inputs)
    assert [m.shape for m in (*masks, *owners)] == [(0, 12, 20), (0, 6, 10)] * 2


@pytest.mark.parametrize(
    ("kind", "dtype", "rtol"),
    [
        *((kind, "float32", 1e-5) for kind in KINDS),
        ("focal", "float64", 1e-5),
        ("focal", "float16", 2e-3),
        ("focal", "bfloat16", 2e-2),
    ],
)
def test_losses_agree(kind: Any, dtype: str, rtol: float) -> None:
    """From boxes; the gradient to a step of its dtype. Targets are float32 in either engine."""
    mask = mask_inputs(feature_map=MAP)
    inputs = LossInputs.check(ramp(dtype), None, LossSpec(kind=kind), None, True, mask)
    ours, theirs = agreeing(inputs, rtol, 1e-7)
    np.testing.assert_allclose(ours.total, theirs.total, rtol=1e-6)
    assert ours.normalizer == theirs.normalizer == 3 * 12 * 20


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [
        *((kind, "float32") for kind in KINDS),
        *(("bce", dtype) for dtype in ("float16", "bfloat16", "float64", "uint8")),
    ],
)
def test_losses_of_targets_agree(kind: Any, dtype: str) -> None:
    """Patch by patch, with the gradient of the sum."""
    spec = LossSpec(kind=kind, reduction="none")
    inputs = LossInputs.check(ramp("float32"), targets(dtype), spec, None, True)
    ours, _ = agreeing(inputs, 1e-6, 1e-6)
    assert np.ptp(ours.loss) > 0


@pytest.mark.parametrize(
    ("reduction", "normalizer"), [("sum", 1), ("mean", 3 * 12 * 20), ("per_object", 6)]
)
def test_reductions_agree(reduction: Any, normalizer: int) -> None:
    """Per object by the number of boxes: 3 in each of two images."""
    spec = LossSpec(reduction=reduction)
    inputs = LossInputs.check(ramp("float64"), None, spec, None, True, mask_inputs(feature_map=MAP))
    ours, theirs = agreeing(inputs, 1e-6, 1e-12)
    assert ours.normalizer == theirs.normalizer == normalizer
    np.testing.assert_allclose(ours.loss, ours.total / normalizer, rtol=1e-12)


def test_a_summed_mask_above_1_is_refused_by_what_was_asked() -> None:
    """The caller gave no target that an error could name."""
    twice = [np.array([[16, 16, 64, 64]] * 2, np.float32)]
    mask = mask_inputs(twice, feature_map=MAP, spec=MaskSpec(patch_size=1, merge="sum"))
    logits = np.zeros((1, *MAP), np.float32)
    with pytest.raises(InvalidRequest) as caught:
        loss_of(CudaEngine("cpu"), LossInputs.check(logits, None, LossSpec(), None, False, mask))
    assert caught.value.field == "mask_spec.merge"


def test_logits_that_are_not_numbers_are_not_the_targets_fault() -> None:
    logits = np.full((3, *MAP), np.nan, np.float32)
    summed = mask_inputs(
        [box[:1] for box in (*STREET, NO_BOXES)],
        feature_map=MAP,
        spec=MaskSpec(patch_size=1, merge="sum"),
    )
    for target, mask in ((targets("float32").numpy(), None), (None, summed)):
        inputs = LossInputs.check(logits, target, LossSpec(), None, True, mask)
        assert np.isnan(loss_of(CudaEngine("cpu"), inputs).loss)


def test_target_as_given() -> None:
    engine = CudaEngine("cpu")
    logits = np.linspace(-3, 3, 8, dtype=np.float32).reshape(2, 4)
    target = np.array([[0, 51, 102, 153], [204, 255, 0, 0]], np.uint8)
    spec = LossSpec(kind="bce", reduction="none")
    result = loss_of(engine, LossInputs.check(logits, target, spec, None, False))
    expected = compute_loss(logits, target / np.float64(255), spec)
    np.testing.assert_allclose(result.loss, expected.loss, rtol=1e-6)
    assert result.grad is None
    bad = LossInputs.check(logits, target.astype(np.float32), spec, None, False)
    with pytest.raises(InvalidRequest, match=r"^target\[0\]\[1\]"):
        loss_of(engine, bad)


def test_warm_up_and_gauge() -> None:
    engine = CudaEngine("cpu")
    engine.warm_up()
    assert engine.gpu_memory_bytes() == 0


@pytest.mark.parametrize(
    ("error", "breaking"),
    [
        (torch.AcceleratorError(BROKEN + "\nCUDA kernel errors might be reported later"), True),
        (torch.AcceleratorError("CUDA error: uncorrectable ECC error encountered"), True),
        (torch.AcceleratorError("some words of a later torch"), True),
        (RuntimeError("CUDA error: device-side assert triggered"), True),
        (RuntimeError("CUDA driver error: unspecified launch failure"), True),
        (RuntimeError("Triton Error [CUDA]: an illegal memory access was encountered"), True),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), False),
        (torch.AcceleratorError("CUDA error: out of memory\nCUDA kernel errors might"), False),
        (RuntimeError("Triton Error [CUDA]: out of memory"), False),
        (RuntimeError("Triton Error [CUDA]: invalid argument"), False),
        (torch.AcceleratorError("CUDA error: invalid configuration argument"), False),
        (RuntimeError("CUDA error: too many resources requested for launch"), False),
        (RuntimeError("The size of tensor a (3) must match the size of tensor b (4)"), False),
        (torch.AcceleratorError(BROKEN + "\nout of memory is not what this is"), True),
    ],
)
def test_which_errors_are_the_last(error: RuntimeError, breaking: bool) -> None:
    assert is_breaking(error) is breaking


class Faults:
    """Stands before the kernels: raises an error, once.

    Attributes:
        error: what comes next.
        emptied: how often the cache of the device's memory was emptied.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.error: Exception | None = None
        self.emptied = 0
        for name in ("make_masks", "take_loss"):
            monkeypatch.setattr(cuda, name, self._before(getattr(cuda, name)))
        monkeypatch.setattr(torch.cuda, "empty_cache", self._empty)

    def _before(self, function: Any) -> Any:
        def call(*args: Any) -> Any:
            error, self.error = self.error, None
            if error is not None:
                raise error
            return function(*args)

        return call

    def _empty(self) -> None:
        self.emptied += 1


def compute_masks(engine: Engine) -> None:
    masks_of(engine, mask_inputs())


def compute_loss_of_boxes(engine: Engine) -> None:
    mask = mask_inputs(feature_map=MAP)
    loss_of(engine, LossInputs.check(ramp("float32"), None, LossSpec(), None, True, mask))


@pytest.mark.parametrize("use", [compute_masks, compute_loss_of_boxes])
def test_a_broken_device_is_not_used_again(monkeypatch: pytest.MonkeyPatch, use: Any) -> None:
    faults = Faults(monkeypatch)
    engine = CudaEngine("cpu")
    cause = faults.error = torch.AcceleratorError(BROKEN + "\nand what else torch has to say")
    with pytest.raises(EngineBroken, match=f"^cpu is broken: {BROKEN}$") as caught:
        use(engine)
    assert caught.value.__cause__ is cause
    unused = faults.error = ValueError("the device was used")
    for use_again in (compute_masks, compute_loss_of_boxes):
        with pytest.raises(EngineBroken, match=BROKEN):
            use_again(engine)
    assert faults.error is unused
    assert faults.emptied == 0


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("Triton Error [CUDA]: invalid argument"),
        ValueError("CUDA error: not from CUDA"),
    ],
)
def test_a_failed_call_leaves_the_device_usable(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    faults = Faults(monkeypatch)
    engine = CudaEngine("cpu")
    faults.error = error
    with pytest.raises(type(error)) as caught:
        masks_of(engine, mask_inputs())
    assert caught.value is error
    assert not faults.emptied
    masks, _ = masks_of(engine, mask_inputs(STREET[:1]))
    assert masks[0].max() == 1


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        torch.AcceleratorError("CUDA error: out of memory\nof pinned memory, say"),
        RuntimeError("Triton Error [CUDA]: out of memory"),
    ],
)
def test_full_memory_is_a_reason_to_come_again(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """At different times; what the process holds and does not use is given back."""
    faults, engine, delays = Faults(monkeypatch), CudaEngine("cpu"), set()
    for use in (compute_masks, compute_loss_of_boxes) * 4:
        faults.error = error
        with pytest.raises(DeviceFull) as caught:
            use(engine)
        assert caught.value.__cause__ is error
        assert caught.value.reason == "memory"
        assert 0.5 <= caught.value.delay <= 1.5
        delays.add(caught.value.delay)
    assert faults.emptied == 8
    assert len(delays) > 4
    masks, _ = masks_of(engine, mask_inputs(STREET[:1]))
    assert masks[0].max() == 1


def test_a_computation_that_hangs_breaks_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reported once, while its thread waits on; who comes later waits for nothing."""
    engine, gate, reports = CudaEngine("cpu", 0.2), Gate(), threading.Event()
    make_masks = cuda.make_masks

    def hang(*args: Any) -> Any:
        gate.wait()
        return make_masks(*args)

    monkeypatch.setattr(cuda, "make_masks", hang)
    engine.watch(Metrics(), reports.set)
    stuck = threading.Thread(target=compute_masks, args=(engine,), daemon=True)
    stuck.start()
    try:
        assert reports.wait(LIMIT)
        with pytest.raises(EngineBroken, match=r"^cpu hangs: no answer in 0.2 s$"):
            compute_loss_of_boxes(engine)
        assert stuck.is_alive()
    finally:
        engine.close()
        gate.open()
        stuck.join(LIMIT)


@pytest.mark.slow
def test_device_and_stream_are_made_current_once_a_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """And never changed back: to make another device's stream current makes a context there."""
    made: list[tuple[str, Any, int]] = []
    for name in ("set_device", "set_stream"):
        monkeypatch.setattr(
            torch.cuda, name, lambda it, name=name: made.append((name, it, threading.get_ident()))
        )
    monkeypatch.setattr(torch.cuda, "stream", None)  # not to be called
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: 7 << 20)
    engine, stream = CudaEngine("cpu"), object()
    engine._stream = stream  # type: ignore[assignment]
    uses = (compute_masks, compute_loss_of_boxes, compute_masks)
    for use in uses:
        use(engine)
    with ThreadPoolExecutor(1) as executor:
        for use in uses:
            executor.submit(use, engine).result()
    threads = [thread for _, _, thread in made]
    assert threads[0] == threads[1] != threads[2] == threads[3]
    assert [entry[:2] for entry in made] == 2 * [
        ("set_device", torch.device("cpu")),
        ("set_stream", stream),
    ]
    assert engine.gpu_memory_bytes() == 7 << 20


@pytest.mark.slow
def test_memory_is_asked_for_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not by each request."""
    asked: list[int] = []
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: asked.append(1) or len(asked))
    monkeypatch.setattr(torch.cuda, "set_device", lambda _: None)
    monkeypatch.setattr(torch.cuda, "set_stream", lambda _: None)
    clock = 100.0
    monkeypatch.setattr(cuda, "time", SimpleNamespace(monotonic=lambda: clock))
    engine = CudaEngine("cpu")
    engine._stream = object()  # type: ignore[assignment]
    for seconds, number in ((0.0, 1), (0.4, 1), (0.2, 2), (0.1, 2), (9.0, 3)):
        clock += seconds
        compute_masks(engine)
        assert engine.gpu_memory_bytes() == len(asked) == number


def test_weights_agree() -> None:
    regions = [(0, 0, 100, 96)] * 3, [[], [(0, 0, 80, 60)], []], None
    inputs = mask_inputs(return_owner=True).weighted(WeightSpec("object", 0.5), *regions)
    found = []
    for engine in (CpuEngine(), CudaEngine("cpu")):
        masks, owners = arrays(inputs)
        weights = [np.full(mask.shape, 77, np.float32) for mask in masks]
        engine.masks(inputs, masks, owners, None, weights)
        found.append([*masks, *owners, *weights])
    for first, second in zip(*found, strict=True):
        np.testing.assert_allclose(first, second, rtol=1e-5, atol=1e-6)
    weights, target = found[0][4], targets("float32").numpy()
    agreeing(
        LossInputs.check(ramp("float32").numpy(), target, LossSpec(), None, True, weights=weights),
        1e-4,
        1e-7,
    )
