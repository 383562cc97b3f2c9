"""What every launch shares: the arguments, what is too large for a kernel, the device."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import torch
from torch import Tensor

from cass_core.errors import InvalidRequest
from cass_core.grid import FeatureMap, patch_grid
from cass_core.ops.spec_args import (
    Shape,
    kernel_numbers,
    kernel_ranges,
    kernel_scale,
    kernel_shape,
    kernel_sides,
)

TILE = (16, 32)
"""Rows and columns of patches that a program makes, with one warp.

What it works out for a tile is then done once a tile. These are 16 registers a lane, in 4 columns
of 4 rows where a row can be written wide; of twice as many rows a batch has too few tiles to keep a
large GPU busy, and a loss or a weight does not fit the registers.
"""

# Kernels count cells, patches and tiles in whole numbers of 32 bits, and the sides of boxes.
_MOST = 2**31


class MaskArguments(NamedTuple):
    """The arguments of the operator ``masks``; those of ``weighted_masks`` begin with them.

    Attributes:
        xyxy: ``[M, 4]`` float32.
        offsets: ``[B + 1]`` int32.
        sizes: ``[B, 2]`` float64 heights and widths; None where `image_size` is every image's.
        image_size: height and width.
        feature_maps: h and w of each map in turn.
        choices, numbers: as `cass_core.ops.spec_args.mask_options` gives them.
        dtype: of the masks.
        return_owner: whether owners are requested; else they come empty.
    """

    xyxy: Tensor
    offsets: Tensor
    sizes: Tensor | None
    image_size: list[int]
    feature_maps: list[int]
    choices: list[int]
    numbers: list[float]
    dtype: torch.dtype
    return_owner: bool

    @property
    def batch(self) -> int:
        """Number of images."""
        return self.offsets.shape[0] - 1

    @property
    def maps(self) -> tuple[FeatureMap, ...]:
        """(h, w) of each feature map."""
        return tuple(zip(self.feature_maps[::2], self.feature_maps[1::2], strict=True))

    @property
    def boxes(self) -> tuple[Tensor, Tensor, Tensor]:
        """The pointers to boxes that a kernel is launched with."""
        return self.xyxy, self.offsets, self.xyxy if self.sizes is None else self.sizes

    def levels(self) -> Levels:
        """What a launch has of the options and the feature maps, made once for equal ones.

        Raises:
            InvalidRequest: the kernels cannot count that far.
        """
        options = tuple(self.choices), tuple(self.numbers), self.sizes is not None
        found = _levels(self.maps, *options)
        if self.batch * found.tiles >= _MOST:
            reason = (
                f"of {self.batch} images are more than a GPU takes at once on such feature maps"
            )
            raise InvalidRequest("boxes", reason)
        if 4 * self.xyxy.shape[0] > _MOST:
            raise InvalidRequest("boxes", f"are {self.xyxy.shape[0]}; a GPU takes at most 2^29")
        return found

    def scales(self) -> tuple[tuple[float, ...], ...]:
        """The cells of each map a pixel, of `cass_core.ops.spec_args.kernel_scale`."""
        return _scales(self.maps, tuple(self.image_size))

    def outputs(self, owner: bool) -> tuple[Tensor, Tensor]:
        """Memory for the masks, and for their owners where these are needed."""
        grids = (patch_grid(pair, self.choices[0]) for pair in self.maps)
        size = self.batch * sum(rows * columns for rows, columns in grids)
        mask = self.xyxy.new_empty(size, dtype=self.dtype)
        return mask, self.xyxy.new_empty(size if owner else 0, dtype=torch.int32)


class Levels(NamedTuple):
    """What kernels are launched with of feature maps and options.

    Attributes:
        sides: of each map, as `cass_core.ops.tiles.sides` takes them.
        columns: patches a row of each.
        numbers, ranges, shape: of `cass_core.ops.spec_args`.
        grids: rows and columns of patches of each map.
        tiles: programs an image, with one a tile.
    """

    sides: tuple[tuple[float, ...], ...]
    columns: tuple[int, ...]
    numbers: tuple[float, ...]
    ranges: tuple[tuple[float, ...], ...]
    shape: Shape
    grids: tuple[FeatureMap, ...]
    tiles: int


@functools.lru_cache(maxsize=256)
def _scales(
    maps: tuple[FeatureMap, ...], image_size: tuple[int, ...]
) -> tuple[tuple[float, ...], ...]:
    return tuple(kernel_scale(pair, image_size) for pair in maps)


@functools.lru_cache(maxsize=256)
def _levels(
    maps: tuple[FeatureMap, ...],
    choices: tuple[int, ...],
    numbers: tuple[float, ...],
    sizes: bool,
) -> Levels:
    patch, tiles = choices[0], 0
    grids = tuple(patch_grid(pair, patch) for pair in maps)
    for rows, columns in grids:
        # Kernels round them up to whole tiles.
        if max(rows + TILE[0], columns + TILE[1]) > _MOST:
            reason = f"has {rows} by {columns} patches, too many of a side for a GPU"
            raise InvalidRequest("feature_map", reason)
        if rows * columns > _MOST:
            reason = f"has {rows} by {columns} patches; a GPU takes at most 2^31 an image"
            raise InvalidRequest("feature_map", reason)
        tiles += -(-rows // TILE[0]) * -(-columns // TILE[1])
    return Levels(
        tuple(kernel_sides(*pair, rows) for pair, (rows, _) in zip(maps, grids, strict=True)),
        tuple(columns for _, columns in grids),
        kernel_numbers(choices, numbers),
        kernel_ranges(numbers, len(maps)),
        kernel_shape(choices, numbers, sizes),
        grids,
        tiles,
    )


def launch(kernel: Any, programs: int, *arguments: Any, warps: int = 1) -> None:
    """Launch a kernel on the device of its first argument, without waiting for it.

    Multiplications and additions stay apart, since boxes are placed as on the CPU, to the last bit;
    where joining them gains anything, a kernel says so.

    Args:
        kernel: a function of `triton.jit`.
        programs: how many there are.
        arguments: all of its, in its order, constants last; the first is a tensor.
        warps: of a program.
    """
    first = arguments[0]
    # Triton launches on the current device.
    if first.is_cuda and first.get_device() != torch.cuda.current_device():
        with torch.cuda.device(first.device):
            _launch(kernel, programs, arguments, warps)
    else:
        _launch(kernel, programs, arguments, warps)


COMPILED: dict[Any, Any] = {}
"""Kernels by what they were compiled for: Triton finds them too, but takes longer for it."""


def _launch(kernel: Any, programs: int, arguments: tuple[Any, ...], warps: int) -> None:
    constants = getattr(kernel, "constexprs", None)
    if constants is None:  # interpreted
        kernel[(programs,)](*arguments, num_warps=warps, enable_fp_fusion=False)
        return
    plain = len(arguments) - len(constants)
    key = (
        id(kernel),  # its own hash takes a lock
        arguments[0].get_device(),
        warps,
        _specialized(arguments[:plain]),
        *arguments[plain:],
    )
    compiled = COMPILED.get(key)
    if compiled is None:
        options = {"num_warps": warps, "enable_fp_fusion": False}
        COMPILED[key] = kernel[(programs,)](*arguments, **options)
    else:
        compiled[(programs, 1, 1)](*arguments)


def _specialized(values: tuple[Any, ...]) -> tuple[Any, ...]:
    """What of arguments a kernel may be compiled for; finer than Triton does, never coarser."""
    found: list[Any] = []
    for value in values:
        kind = type(value)
        if kind is int:
            if -_MOST <= value < _MOST:
                found.append("one" if value == 1 else value % 16 == 0)
            else:
                found.append((value % 16 == 0, value.bit_length() > 63))
        elif kind is float:
            found.append(None)
        elif kind is tuple:
            found.append(None if type(value[0]) is float else _specialized(value))
        else:
            found.append(value.dtype)
            found.append(value.data_ptr() % 16 == 0)
    return tuple(found)
