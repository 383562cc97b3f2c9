"""Street scenes drawn from random numbers: data for a demo, a benchmark or a first try.

Cones, pedestrians and vehicles stand on a road seen in perspective: most boxes are small, and most
are taller than wide, as in the data that the method is for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from cass_core.errors import InvalidRequest
from cass_core.grid import same_image_size

if TYPE_CHECKING:
    from PIL.ImageDraw import ImageDraw

LABELS = ("cone", "pedestrian", "vehicle")

# Metres: height, and width as a share of it.
_HEIGHT = np.array([0.7, 1.75, 1.6])
_ASPECT = np.array([0.62, 0.38, 1.25])
_SHARE = (0.45, 0.35, 0.2)
_CAMERA_HEIGHT = 1.5
_NEAREST, _FARTHEST = 4.0, 80.0
_HORIZON = 0.42
_LEAST_SIDE = 2.0


@dataclass(frozen=True, slots=True)
class Scene:
    """A drawn picture and what stands in it.

    Attributes:
        image: ``[H, W, 3]`` uint8, RGB.
        boxes: ``[N, 4]`` float32 xyxy in pixels, the farthest first.
        labels: name of each box's object.
    """

    image: npt.NDArray[np.uint8]
    boxes: npt.NDArray[np.float32]
    labels: tuple[str, ...]


def street_boxes(
    images: int, boxes: int, *, image_size: tuple[int, int] = (736, 1280), seed: int = 0
) -> list[npt.NDArray[np.float32]]:
    """Boxes of objects on a road, without a picture.

    Args:
        images: number of images.
        boxes: boxes in each of them.
        image_size: (H, W) in pixels, each at least 16.
        seed: equal seeds give equal boxes.

    Returns:
        For each image ``[boxes, 4]`` float32 xyxy in pixels, within the image, of positive area.

    Raises:
        InvalidRequest: the image is too small.

    Example:
        >>> [b.shape for b in street_boxes(2, 15)]
        [(15, 4), (15, 4)]
    """
    rng = np.random.default_rng(seed)
    return [_layout(rng, boxes, image_size)[0] for _ in range(images)]


def street_scene(
    seed: int = 0, *, image_size: tuple[int, int] = (736, 1280), boxes: int = 30
) -> Scene:
    """Draw a street with objects, tight in their boxes. Needs Pillow.

    Args:
        seed: equal seeds give equal scenes.
        image_size: (H, W) in pixels, each at least 16.
        boxes: number of objects.

    Raises:
        InvalidRequest: the image is too small.

    Example:
        >>> scene = street_scene(7, image_size=(184, 320))
        >>> scene.image.shape, scene.boxes.shape, len(scene.labels)
        ((184, 320, 3), (30, 4), 30)
    """
    from PIL import Image, ImageDraw

    rng = np.random.default_rng(seed)
    xyxy, kinds = _layout(rng, boxes, image_size)
    height, width = image_size
    picture = Image.new("RGB", (width, height))
    draw = ImageDraw.Draw(picture)
    _draw_street(draw, height, width, rng)
    for box, kind in zip(xyxy.tolist(), kinds.tolist(), strict=True):
        _draw_object(draw, box, kind, rng)
    return Scene(np.array(picture), xyxy, tuple(LABELS[kind] for kind in kinds.tolist()))


def _layout(
    rng: np.random.Generator, count: int, image_size: tuple[int, int]
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Boxes ``[count, 4]``, the farthest first, and the index of each one's label."""
    height, width = same_image_size(image_size)
    if height < 16 or width < 16:
        raise InvalidRequest("image_size", f"must be at least (16, 16), got {image_size}")
    kinds = rng.choice(len(LABELS), count, p=_SHARE)
    # Even in 1 / distance would crowd the foreground, even in distance the horizon.
    distance = _NEAREST * (_FARTHEST / _NEAREST) ** rng.beta(2.6, 1.0, count)
    order = np.argsort(-distance, kind="stable")
    kinds, distance = kinds[order], distance[order]
    # A camera whose picture's lower edge shows the ground at the least distance.
    focal = (1 - _HORIZON) * height * _NEAREST / _CAMERA_HEIGHT
    pixels = focal / distance  # of a metre
    bottom = _HORIZON * height + _CAMERA_HEIGHT * pixels
    box_h = _HEIGHT[kinds] * rng.uniform(0.85, 1.15, count) * pixels
    box_w = box_h * _ASPECT[kinds] * rng.uniform(0.85, 1.15, count)
    x = rng.uniform(-0.02, 1.02, count) * width
    # Clip, and move what is then too thin back into the picture.
    x1 = np.clip(x - box_w / 2, 0, width - _LEAST_SIDE)
    x2 = np.clip(x + box_w / 2, x1 + _LEAST_SIDE, width)
    y1 = np.clip(bottom - box_h, 0, height - _LEAST_SIDE)
    y2 = np.clip(bottom, y1 + _LEAST_SIDE, height)
    return np.stack([x1, y1, x2, y2], axis=1).astype(np.float32), kinds


_Colour = tuple[int, ...]
# What an object is drawn of, in shares of its box: rectangles (x1, y1, x2, y2) and polygons (x, y,
# ...), each with its colour or the object's own.
_Part = tuple[tuple[float, ...], _Colour | None]
_CONE: tuple[_Part, ...] = (
    ((0, 0.9, 1, 1), (58, 50, 46)),
    ((0.1, 0.9, 0.9, 0.9, 0.56, 0, 0.44, 0), None),
    ((0.22, 0.585, 0.78, 0.585, 0.7, 0.36, 0.3, 0.36), (240, 240, 236)),
)
_PEDESTRIAN: tuple[_Part, ...] = (
    ((0.2, 0.5, 0.46, 1), (52, 56, 70)),
    ((0.54, 0.5, 0.8, 1), (52, 56, 70)),
    ((0, 0.18, 1, 0.54), None),
    ((0.36, 0, 0.64, 0, 0.7, 0.07, 0.64, 0.15, 0.36, 0.15, 0.3, 0.07), (222, 180, 150)),
)
_TYRE, _LIGHT = (22, 22, 24), (196, 40, 36)
_VEHICLE: tuple[_Part, ...] = (
    ((0.06, 0.75, 0.24, 1), _TYRE),
    ((0.76, 0.75, 0.94, 1), _TYRE),
    ((0, 0.42, 1, 0.88), None),
    ((0.06, 0.42, 0.18, 0, 0.82, 0, 0.94, 0.42), None),
    ((0.13, 0.4, 0.22, 0.07, 0.78, 0.07, 0.87, 0.4), (58, 74, 88)),
    ((0.03, 0.52, 0.17, 0.64), _LIGHT),
    ((0.83, 0.52, 0.97, 0.64), _LIGHT),
)
_PARTS = (_CONE, _PEDESTRIAN, _VEHICLE)
_ROAD: _Colour = (88, 90, 94)
_PAINT: _Colour = (214, 214, 206)


def _fill(draw: ImageDraw, x1: float, y1: float, x2: float, y2: float, colour: _Colour) -> None:
    """A rectangle that ends before x2 and y2, at least one pixel large."""
    draw.rectangle([x1, y1, max(x1, x2 - 1), max(y1, y2 - 1)], colour)


def _draw_street(draw: ImageDraw, height: int, width: int, rng: np.random.Generator) -> None:
    horizon = round(_HORIZON * height)
    for y in range(horizon):  # the sky pales towards the horizon
        t = y / horizon
        draw.line([(0, y), (width, y)], (round(120 + 90 * t), round(165 + 55 * t), 228))
    x = 0.0
    while x < width:
        block_w, block_h = rng.uniform(0.03, 0.09) * width, rng.uniform(0.05, 0.22) * height
        shade = int(rng.integers(120, 175))
        _fill(draw, x, horizon - block_h, x + block_w, horizon, (shade, shade - 6, shade - 10))
        x += block_w
    _fill(draw, 0, horizon, width, height, (122, 138, 102))
    middle = width / 2

    def trapezium(left: float, right: float, near: float, far: float, colour: _Colour) -> None:
        """What lies between two lines to the vanishing point; ends as shares of the road."""
        y_near = horizon + near * (height - horizon)
        y_far = horizon + far * (height - horizon)
        x = [
            middle + share * width for share in (left * near, right * near, right * far, left * far)
        ]
        draw.polygon(list(zip(x, (y_near, y_near, y_far, y_far), strict=True)), colour)

    trapezium(-1.0, 1.0, 1.0, 0.0, _ROAD)
    for side in (-0.97, 0.95):
        trapezium(side, side + 0.02, 1.0, 0.0, _PAINT)
    for metres in np.arange(_NEAREST, _FARTHEST, 6.0).tolist():
        for lane in (-0.34, 0.33):
            trapezium(lane, lane + 0.012, _NEAREST / metres, _NEAREST / (metres + 3.0), _PAINT)


def _draw_object(
    draw: ImageDraw, box: Sequence[float], kind: int, rng: np.random.Generator
) -> None:
    x1, y1, x2, y2 = box
    own = tuple(int(v) for v in rng.integers(40, 215, 3))
    if LABELS[kind] == "cone":
        own = (232, 92, 22) if rng.random() < 0.7 else (238, 196, 30)
    for shape, colour in _PARTS[kind]:
        x = [x1 + share * (x2 - x1) for share in shape[::2]]
        y = [y1 + share * (y2 - y1) for share in shape[1::2]]
        if len(x) == 2:
            _fill(draw, x[0], y[0], x[1], y[1], colour or own)
        else:
            draw.polygon(list(zip(x, y, strict=True)), colour or own)
