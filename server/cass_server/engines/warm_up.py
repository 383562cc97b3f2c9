"""The calls that clients make, small: each compiles or loads the variants of kernels it needs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import product
from typing import TypeAlias, get_args

import numpy as np

from cass_core.arrays import MASK_DTYPES, storage_dtype
from cass_core.boxes import BoxBatch
from cass_core.inputs import LossInputs, MaskInputs
from cass_core.specs import LossKind, LossSpec, MaskSpec
from cass_server.engines.base import Engine
from cass_server.exceptions import NotCompiled

Inputs: TypeAlias = MaskInputs | LossInputs

# Whether a row's patches are a multiple of 16, or 1, is compiled in. Finer maps have more of them,
# so that of three maps those with a multiple of 16 come first.
_WIDE, _NARROW, _SINGLE = (8, 16), (8, 9), (8, 1)
_PAIRS = [(_WIDE, _WIDE), (_WIDE, _NARROW), (_NARROW, _NARROW)]
_TRIPLES = [
    (_WIDE, _WIDE, _WIDE),
    (_WIDE, _WIDE, _NARROW),
    (_WIDE, _NARROW, _NARROW),
    (_NARROW, _NARROW, _NARROW),
]
_BOXES = BoxBatch(np.array([[2, 2, 6, 6]] * 2, np.float32), np.array([1, 1]))
_ONE_SIZE, _OWN_SIZES = np.array([[8.0, 8.0]]), np.array([[8.0, 8.0], [8.0, 9.0]])
_SPEC = MaskSpec(patch_size=1)
_KINDS: tuple[LossKind, ...] = get_args(LossKind)


def first_calls() -> Iterator[Inputs]:
    """Those of the defaults: masks of every dtype on one map, and the default loss from boxes."""
    for dtype, sizes, cells in product(MASK_DTYPES, (_ONE_SIZE, _OWN_SIZES), (_WIDE, _NARROW)):
        yield _masks(dtype, sizes, [cells])
    for cells in (_WIDE, _NARROW):
        yield _loss(_masks("float32", _ONE_SIZE, [cells]), LossSpec())


def further_calls() -> Iterator[Inputs]:
    """Up to three maps, maps of one column, all losses from boxes and targets, half precision."""
    for dtype, sizes in product(("float32", "uint8", "float16"), (_ONE_SIZE, _OWN_SIZES)):
        for maps in (*_PAIRS, *_TRIPLES, [_SINGLE]):
            yield _masks(dtype, sizes, list(maps))
    for kind, cells, sizes in product(_KINDS, (_WIDE, _NARROW), (_ONE_SIZE, _OWN_SIZES)):
        yield _loss(_masks("float32", sizes, [cells]), LossSpec(kind=kind))
    for cells in (_WIDE, _NARROW):
        yield _loss(_masks("float32", _ONE_SIZE, [cells]), LossSpec(), "float16")
    for kind, dtype in product(_KINDS, ("float32", "uint8")):
        yield _target_loss(LossSpec(kind=kind), dtype)


def warm_up(engine: Engine, calls: Iterable[Inputs], threads: int) -> None:
    """Make calls, so many at a time, each until all that it needs is compiled.

    Raises:
        Exception: what the first of those that failed raised.
    """
    with ThreadPoolExecutor(threads, "warm-up") as executor:
        for _ in executor.map(partial(_call, engine), calls):
            pass


def _call(engine: Engine, inputs: Inputs) -> None:
    while True:
        try:
            if isinstance(inputs, LossInputs):
                engine.losses(inputs, None)
            else:
                dtype = storage_dtype(inputs.dtype)
                masks = [np.empty(shape, dtype) for shape in inputs.shapes()]
                engine.masks(inputs, masks, [], None)
            return
        except NotCompiled as error:
            compile = error.compile
        compile()


def _masks(dtype: str, sizes: np.ndarray, maps: list[tuple[int, int]]) -> MaskInputs:
    return MaskInputs(_BOXES, sizes, maps, len(maps) == 1, _SPEC, dtype, False)


def _loss(mask: MaskInputs, spec: LossSpec, dtype: str = "float32") -> LossInputs:
    logits = np.zeros(mask.shapes()[0], dtype)
    return LossInputs(logits, dtype, None, "", mask, spec, None, True)


def _target_loss(spec: LossSpec, dtype: str) -> LossInputs:
    # As many patches as a multiple of 16, which most are.
    logits, target = np.zeros((2, 8, 16), np.float32), np.zeros((2, 8, 16), dtype)
    return LossInputs(logits, "float32", target, dtype, None, spec, None, True)
