"""Street scenes drawn from random numbers: data for a demo, a benchmark or a first try.

Cones, pedestrians and vehicles stand on a road seen in perspective: most boxes are small, and most
are taller than wide, as in the data that the method is for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from cass_core.errors import InvalidRequest
from cass_core.grid import one_feature_map

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
    painters = (_draw_cone, _draw_pedestrian, _draw_vehicle)
    for (x1, y1, x2, y2), kind in zip(xyxy.tolist(), kinds.tolist(), strict=True):
        painters[kind](draw, x1, y1, x2, y2, rng)
    return Scene(np.array(picture), xyxy, tuple(LABELS[kind] for kind in kinds.tolist()))


def _layout(
    rng: np.random.Generator, count: int, image_size: tuple[int, int]
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Boxes ``[count, 4]``, the farthest first, and the index of each one's label."""
    height, width = one_feature_map(image_size)
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
        draw.polygon(
            [
                (middle + left * near * width, y_near),
                (middle + right * near * width, y_near),
                (middle + right * far * width, y_far),
                (middle + left * far * width, y_far),
            ],
            colour,
        )

    trapezium(-1.0, 1.0, 1.0, 0.0, _ROAD)
    for side in (-0.97, 0.95):
        trapezium(side, side + 0.02, 1.0, 0.0, _PAINT)
    for metres in np.arange(_NEAREST, _FARTHEST, 6.0).tolist():
        for lane in (-0.34, 0.33):
            trapezium(lane, lane + 0.012, _NEAREST / metres, _NEAREST / (metres + 3.0), _PAINT)


def _draw_cone(
    draw: ImageDraw, x1: float, y1: float, x2: float, y2: float, rng: np.random.Generator
) -> None:
    middle, w, h = (x1 + x2) / 2, x2 - x1, y2 - y1
    base = y2 - 0.1 * h

    def band(low: float, high: float, colour: _Colour) -> None:
        """A slice of the body, between shares of its height."""
        half_low = w * (0.40 - 0.34 * low)
        half_high = w * (0.40 - 0.34 * high)
        y_low, y_high = base - low * (base - y1), base - high * (base - y1)
        draw.polygon(
            [
                (middle - half_low, y_low),
                (middle + half_low, y_low),
                (middle + half_high, y_high),
                (middle - half_high, y_high),
            ],
            colour,
        )

    body = (232, 92, 22) if rng.random() < 0.7 else (238, 196, 30)
    _fill(draw, x1, base, x2, y2, (58, 50, 46))
    band(0.0, 1.0, body)
    band(0.35, 0.6, (240, 240, 236))


def _draw_pedestrian(
    draw: ImageDraw, x1: float, y1: float, x2: float, y2: float, rng: np.random.Generator
) -> None:
    middle, w, h = (x1 + x2) / 2, x2 - x1, y2 - y1
    coat = tuple(int(v) for v in rng.integers(30, 200, 3))
    trousers = tuple(int(v) for v in rng.integers(25, 95, 3))
    head = 0.065 * h
    _fill(draw, middle - 0.30 * w, y1 + 0.5 * h, middle - 0.04 * w, y2, trousers)
    _fill(draw, middle + 0.04 * w, y1 + 0.5 * h, middle + 0.30 * w, y2, trousers)
    _fill(draw, x1, y1 + 0.18 * h, x2, y1 + 0.54 * h, coat)
    draw.ellipse([middle - head, y1, middle + head, y1 + 2.2 * head], (222, 180, 150))


def _draw_vehicle(
    draw: ImageDraw, x1: float, y1: float, x2: float, y2: float, rng: np.random.Generator
) -> None:
    w, h = x2 - x1, y2 - y1
    paint = tuple(int(v) for v in rng.integers(40, 215, 3))
    for left in (x1 + 0.06 * w, x2 - 0.24 * w):
        _fill(draw, left, y2 - 0.25 * h, left + 0.18 * w, y2, (22, 22, 24))
    _fill(draw, x1, y1 + 0.42 * h, x2, y2 - 0.12 * h, paint)
    draw.polygon(
        [
            (x1 + 0.06 * w, y1 + 0.42 * h),
            (x1 + 0.18 * w, y1),
            (x2 - 0.18 * w, y1),
            (x2 - 0.06 * w, y1 + 0.42 * h),
        ],
        paint,
    )
    draw.polygon(
        [
            (x1 + 0.13 * w, y1 + 0.40 * h),
            (x1 + 0.22 * w, y1 + 0.07 * h),
            (x2 - 0.22 * w, y1 + 0.07 * h),
            (x2 - 0.13 * w, y1 + 0.40 * h),
        ],
        (58, 74, 88),
    )
    for left in (x1 + 0.03 * w, x2 - 0.17 * w):
        _fill(draw, left, y1 + 0.52 * h, left + 0.14 * w, y1 + 0.64 * h, (196, 40, 36))
