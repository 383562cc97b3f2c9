"""Conversions of the CPU path, against NumPy's and torch's, bit for bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from cass_core.cpu.convert import narrow_into, widen

ALL_16 = np.arange(1 << 16, dtype=np.uint16)
Floats = npt.NDArray[np.float32]


def as_bits(values: Floats) -> npt.NDArray[np.uint32]:
    """Bits, with one pattern for every NaN."""
    return np.where(np.isnan(values), np.uint32(0x7FC00000), values.view(np.uint32))


def test_every_float16_widens() -> None:
    wide = widen(ALL_16.view(np.float16), "float16")
    assert wide.dtype == np.float32
    np.testing.assert_array_equal(as_bits(wide), as_bits(ALL_16.view(np.float16).astype("f4")))


def test_every_bfloat16_widens() -> None:
    wide = widen(ALL_16, "bfloat16")
    expected = torch.from_numpy(ALL_16.view(np.int16)).view(torch.bfloat16).float().numpy()
    np.testing.assert_array_equal(wide.view(np.uint32), expected.view(np.uint32))


def test_every_uint8_widens() -> None:
    wide = widen(np.arange(256, dtype=np.uint8), "uint8")
    # The float32 next to the quotient.
    assert wide.tolist() == [float(np.float32(i / 255)) for i in range(256)]
    assert (wide[0], wide[-1]) == (0, 1)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_wide_dtypes_stay(dtype: Any) -> None:
    values = np.linspace(0, 1, 5, dtype=dtype)
    assert widen(values, values.dtype.name) is values


def test_widen_takes_shapes_and_read_only_arrays() -> None:
    values = np.arange(6, dtype=np.float16).reshape(2, 3)
    values.flags.writeable = False
    wide = widen(values, "float16")
    assert wide.tolist() == [[0, 1, 2], [3, 4, 5]]
    assert widen(np.empty((0, 3), np.float16), "float16").shape == (0, 3)


def around(values: Floats) -> Floats:
    """The values, their neighbours on both sides, and all of that negated."""
    beside = [np.nextafter(values, np.float32(end)) for end in (np.inf, -np.inf)]
    near = np.concatenate([values, *beside])
    return np.concatenate([near, -near])


def hard_cases(short_values: Floats) -> Floats:
    """Every short value, every midpoint of two, their neighbours, specials, and random bits."""
    finite = np.sort(short_values[np.isfinite(short_values) & (short_values >= 0)])
    midpoints = (finite[1:].astype(np.float64) + finite[:-1]) / 2
    near_65520 = [65519.996, 65520, 65520.004, 65536]
    specials = np.array([0, -0.0, np.inf, -np.inf, np.nan, 1e-45, 1e-40, 3.4e38, *near_65520], "f4")
    bits = np.random.default_rng(7).integers(0, 1 << 32, 200_000, dtype=np.uint32)
    return np.concatenate(
        [around(finite), around(midpoints.astype(np.float32)), specials, bits.view(np.float32)]
    )


def test_narrowing_to_float16() -> None:
    values = hard_cases(ALL_16.view(np.float16).astype(np.float32))
    out = np.empty(values.shape, np.float16)
    narrow_into(values, out, "float16")
    with np.errstate(over="ignore", under="ignore"):
        expected = values.astype(np.float16)
    nan = np.isnan(values)
    assert np.isnan(out[nan]).all()
    np.testing.assert_array_equal(out[~nan].view(np.uint16), expected[~nan].view(np.uint16))


def test_narrowing_to_bfloat16() -> None:
    wide = torch.from_numpy(ALL_16.view(np.int16)).view(torch.bfloat16).float().numpy()
    values = hard_cases(wide)
    out = np.empty(values.shape, np.uint16)
    narrow_into(values, out, "bfloat16")
    expected = torch.from_numpy(values).to(torch.bfloat16)
    nan = np.isnan(values)
    found = torch.from_numpy(out.view(np.int16)).view(torch.bfloat16)
    assert found[torch.from_numpy(nan)].isnan().all()
    np.testing.assert_array_equal(
        out[~nan], expected.view(torch.int16).numpy().view(np.uint16)[~nan]
    )


def test_every_uint8_comes_back() -> None:
    whole = np.arange(256, dtype=np.uint8)
    out = np.empty(256, np.uint8)
    narrow_into(widen(whole, "uint8"), out, "uint8")
    np.testing.assert_array_equal(out, whole)


def test_narrowing_to_uint8_rounds_to_nearest_even() -> None:
    # 0.5 / 255 and the like, where their product with 255 is just a half in float32.
    values = around(((np.arange(255) + 0.5) / 255).astype(np.float32))
    random = np.random.default_rng(8).random(100_000, dtype=np.float32)
    values = np.concatenate([values[values >= 0], random, np.float32([0, 1, 1e-45])])
    out = np.empty(values.shape, np.uint8)
    narrow_into(values, out, "uint8")
    product = values * np.float32(255)
    halves = np.count_nonzero(product % 1 == 0.5)
    assert halves > 100
    # Python's round goes to the even number at a half.
    assert out.tolist() == [round(float(p)) for p in product]
    exact = out.astype(np.float64) - values.astype(np.float64) * 255
    assert np.abs(exact).max() < 0.5 + 1e-5


def test_narrowing_keeps_float32_and_takes_shapes() -> None:
    values = np.array([[0.1, np.nan], [-0.0, np.inf]], np.float32)
    out = np.empty((2, 2), np.float32)
    narrow_into(values, out, "float32")
    np.testing.assert_array_equal(out.view(np.uint32), values.view(np.uint32))
    half = np.empty((2, 2), np.float16)
    narrow_into(values, half, "float16")
    assert half[1, 1] == np.inf
    assert half[0, 0] == np.float16(0.1)
