"""Conversions between float32 and the short dtypes, as loops that LLVM vectorises.

NumPy converts float16 one value at a time (6 ns each where this takes 0.6 on an AVX2 machine)
and has no bfloat16 at all. All round to nearest, ties to even. Arrays are flat; float16 and
bfloat16 are given as their uint16 bits.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from cass_core.arrays import Array
from cass_core.cpu.jit import kernel


@kernel
def _to_uint8(values: Any, out: Any) -> None:
    # Adding 2^23 leaves a number below it rounded to a whole one.
    magic = np.float32(1 << 23)
    for i in range(values.size):
        out[i] = np.uint8(np.int32((values[i] * np.float32(255) + magic) - magic))


@kernel
def _to_bfloat16(values: Any, out: Any) -> None:
    for i in range(values.size):
        bits = np.float32(values[i]).view(np.uint32)
        rounded = (
            bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
        ) >> np.uint32(16)
        is_nan = (bits & np.uint32(0x7FFFFFFF)) > np.uint32(0x7F800000)
        out[i] = np.uint16(np.uint32(0x7FC0) if is_nan else rounded)


@kernel
def _to_float16(values: Any, out: Any) -> None:
    for i in range(values.size):
        bits = np.float32(values[i]).view(np.uint32)
        magnitude = bits & np.uint32(0x7FFFFFFF)
        # Below 2^-14 float16 is a fixed-point number: adding 0.5 aligns its last bit with
        # float32's.
        shifted = np.float32(abs(values[i]) + np.float32(0.5)).view(np.uint32)
        half = shifted - np.uint32(0x3F000000)
        if magnitude >= np.uint32(0x38800000):  # 2^-14: re-bias the exponent, round 13 bits off
            odd = (magnitude >> np.uint32(13)) & np.uint32(1)
            half = (magnitude + np.uint32(0xC8000FFF) + odd) >> np.uint32(13)
        if magnitude >= np.uint32(0x477FF000):  # 65520
            half = np.uint32(0x7C00)
        if magnitude > np.uint32(0x7F800000):
            half = np.uint32(0x7E00)
        out[i] = np.uint16(half | ((bits >> np.uint32(16)) & np.uint32(0x8000)))


@kernel
def _from_bfloat16(bits: Any, out: Any) -> None:
    for i in range(bits.size):
        out[i] = np.uint32(np.uint32(bits[i]) << np.uint32(16)).view(np.float32)


@kernel
def _from_float16(bits: Any, out: Any) -> None:
    # Moving the exponent into place leaves it 112 too small, for subnormal numbers too.
    rebias = np.uint32(0x77800000).view(np.float32)
    for i in range(bits.size):
        half = np.uint32(bits[i])
        magnitude = half & np.uint32(0x7FFF)
        value = np.float32(np.uint32(magnitude << np.uint32(13)).view(np.float32) * rebias)
        whole = np.float32(value).view(np.uint32) | ((half & np.uint32(0x8000)) << np.uint32(16))
        if magnitude >= np.uint32(0x7C00):  # infinity and NaN
            whole |= np.uint32(0x7F800000)
        out[i] = np.uint32(whole).view(np.float32)


@kernel
def _from_uint8(values: Any, out: Any) -> None:
    for i in range(values.size):
        out[i] = np.float32(values[i]) / np.float32(255)


def narrow_into(values: Array, out: Array, dtype: str) -> None:
    """Round contiguous float32 ``values`` into ``out``, contiguous and of the same size.

    For uint8 the values must lie in [0, 1] and become round(255 value).
    """
    flat, target = values.reshape(-1), out.reshape(-1)
    if dtype == "uint8":
        _to_uint8(flat, target)
    elif dtype == "bfloat16":
        _to_bfloat16(flat, target)
    elif dtype == "float16":
        _to_float16(flat, target.view(np.uint16))
    else:
        np.copyto(target, flat)


def widen(values: Array, dtype: str) -> Array:
    """Contiguous data as float32 (float64 stays as it is); uint8 as value / 255."""
    if dtype in ("float32", "float64"):
        return values
    out = np.empty(values.shape, np.float32)
    flat, target = values.reshape(-1).view(), out.reshape(-1)
    flat.flags.writeable = False  # as in what a request brings: one compilation serves both
    if dtype == "uint8":
        _from_uint8(flat, target)
    elif dtype == "bfloat16":
        _from_bfloat16(flat, target)
    else:
        _from_float16(flat.view(np.uint16), target)
    return out
