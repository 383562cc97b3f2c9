"""What the commands that draw have in common: pictures from disk, figures to disk."""

from __future__ import annotations

import hashlib
import importlib.util
import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote

import numpy as np
import numpy.typing as npt

from cass_cli.files import whole_file
from cass_core.errors import CassError, InvalidRequest

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL.Image import Image

# Of a figure's picture, in pixels.
_LONGEST_SIDE = 4096
# Bytes of a file's name: file systems take 255.
_LONGEST_NAME = 200


_NO_BOXES = np.empty((0, 4), np.float32)


class Scene(NamedTuple):
    """An image of a file.

    Attributes:
        picture: ``[H, W, 3]`` uint8; None for a plain canvas.
        xyxy: ``[N, 4]`` boxes in pixels.
        size: (H, W) in pixels.
        ignored: ``[K, 4]`` boxes of crowd regions and ignored objects.
    """

    picture: Any
    xyxy: npt.NDArray[np.float32]
    size: tuple[int, int]
    ignored: npt.NDArray[np.float32] = _NO_BOXES


def drawable(scene: Scene) -> Scene:
    """The scene itself, or one small enough for matplotlib, which takes 24 bytes for each pixel."""
    share = _LONGEST_SIDE / max(scene.size)
    if share >= 1:
        return scene
    size = (max(1, round(scene.size[0] * share)), max(1, round(scene.size[1] * share)))
    picture = None if scene.picture is None else stretch(scene.picture, size)
    boxes = (stretch_boxes(xyxy, scene.size, size) for xyxy in (scene.xyxy, scene.ignored))
    return Scene(picture, next(boxes), size, next(boxes))


def stretch(picture: npt.NDArray[np.uint8], size: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """A picture ``[H, W, 3]`` at another size (H, W).

    Example:
        >>> stretch(np.zeros((10, 20, 3), np.uint8), (8, 16)).shape
        (8, 16, 3)
    """
    if picture.shape[:2] == size:
        return picture
    from PIL import Image

    resized = Image.fromarray(picture).resize(size[::-1], Image.Resampling.BILINEAR)
    return np.asarray(resized)


def stretch_boxes(
    xyxy: npt.NDArray[np.float32], before: Any, after: tuple[int, int]
) -> npt.NDArray[np.float32]:
    """Boxes ``[N, 4]`` in pixels of a picture of (H, W), once that is stretched to another (H, W).

    Args:
        xyxy: the boxes.
        before: (H, W), or ``[N, 2]`` for each box.
        after: (H, W).

    Example:
        >>> stretch_boxes(np.float32([[1, 2, 3, 4]]), (10, 10), (20, 10)).tolist()
        [[1.0, 4.0, 3.0, 8.0]]
    """
    scale = np.array(after, np.float64) / before
    stretched: npt.NDArray[np.float32] = (xyxy * scale[..., [1, 0, 1, 0]]).astype(np.float32)
    return stretched


def require_plots() -> None:
    """Rejects to draw without matplotlib.

    Raises:
        CassError: it is not installed.
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise CassError('figures need matplotlib; install it with: pip install "cass[plot]"')


def picture_path(images: Path, file_name: str, image_id: int | str) -> Path:
    """The file of an image's picture.

    Raises:
        InvalidRequest: the image has no file name, or there is no such file.
    """
    if not file_name:
        raise InvalidRequest("--images", f"image {image_id} has no file_name")
    path = _place(images, file_name)
    if not path.is_file():
        raise InvalidRequest("--images", f"{path}: no such file")
    return path


def _place(images: Path, file_name: str) -> Path:
    path = images / file_name
    if not path.is_file() and "\\" in file_name:  # written on Windows
        path = images / file_name.replace("\\", "/")
    return path


def keep_pictures(
    option: str, outputs: Iterable[Path], images: Path | None, file_names: Iterable[str]
) -> None:
    """Rejects to write over a picture of the data set, under whatever name.

    Raises:
        InvalidRequest: an output is one of the pictures.
    """
    written = {}
    for path in outputs:
        with suppress(OSError):  # most outputs do not exist yet
            stat = path.stat()
            written[stat.st_dev, stat.st_ino] = path
    if images is None or not written:
        return
    for name in file_names:
        with suppress(OSError):
            stat = _place(images, name).stat()
            if output := written.get((stat.st_dev, stat.st_ino)):
                raise InvalidRequest(
                    option, f"{output} is a picture that is read: give another path"
                )


def load_picture(
    images: Path | None, file_name: str, size: tuple[int, int], image_id: int | str
) -> Any:
    """The picture ``[H, W, 3]``, or None for a plain canvas where no folder is given.

    It is turned upright as its EXIF orientation says, unless it has the annotations' size as it is
    and no longer when it is turned.

    Raises:
        InvalidRequest: the image has no file name, or the file is missing, is no picture, is
            broken, or has another size.
    """
    if images is None:
        return None
    import PIL.Image

    path = picture_path(images, file_name, image_id)
    most = PIL.Image.MAX_IMAGE_PIXELS
    # The annotations' size is the limit here: nothing larger is decoded.
    PIL.Image.MAX_IMAGE_PIXELS = None
    try:
        with PIL.Image.open(path) as picture:
            return _pixels(picture, path, size)
    except PIL.UnidentifiedImageError as error:
        raise InvalidRequest("--images", f"{path} is not a picture") from error
    except (InvalidRequest, MemoryError):
        raise
    except Exception as error:  # broken files make Pillow raise nearly anything
        reason = getattr(error, "strerror", None) or error
        raise InvalidRequest("--images", f"{path} cannot be read: {reason}") from error
    finally:
        PIL.Image.MAX_IMAGE_PIXELS = most


def _pixels(picture: Image, path: Path, size: tuple[int, int]) -> npt.NDArray[np.uint8]:
    from PIL import ImageOps
    from PIL.ExifTags import Base

    orientation = picture.getexif().get(Base.Orientation, 1)
    stored = (picture.height, picture.width)
    upright = stored[::-1] if orientation in (5, 6, 7, 8) else stored
    if size not in (stored, upright):
        turned = f" ({upright} turned by its EXIF orientation)" if upright != stored else ""
        reason = f"{path} is {stored} pixels{turned}, the annotations say {size}"
        raise InvalidRequest("--images", reason)
    if size == upright:
        picture = ImageOps.exif_transpose(picture)
    if picture.mode.startswith("I;16"):
        # As OpenCV reads it; Pillow would clip to 255.
        return np.repeat((np.asarray(picture) >> 8).astype(np.uint8)[..., None], 3, axis=2)
    if picture.mode in ("I", "F"):
        reason = f"{path} has 32-bit pixels: store it with 8 or 16 bits"
        raise InvalidRequest("--images", reason)
    return np.asarray(picture.convert("RGB"))


def figure_paths(folder: Path, image_ids: Sequence[int | str]) -> list[Path]:
    """A file for each image's figure; ids may hold anything, and no two have the same file.

    Example:
        >>> [path.name for path in figure_paths(Path("out"), ["a/b", "a_b", 7])]
        ['a%2Fb.png', 'a_b.png', '7.png']
    """
    paths, taken = [], set()
    for text in map(str, image_ids):
        code = text.encode("utf-8", "surrogatepass")
        name = re.sub(r"[^\w.-]", lambda c: quote(c[0], safe="", errors="surrogatepass"), text)
        # Letters that differ in case alone are the same file on some systems.
        bad = not name or name.startswith(".") or len(code) > _LONGEST_NAME
        if bad or name.lower() in taken:
            name = f"{name[:40].lstrip('.')}-{hashlib.sha256(code).hexdigest()[:12]}"
        taken.add(name.lower())
        paths.append(folder / f"{name}.png")
    return paths


def save(figure: Figure, path: Path, dpi: int = 100) -> None:
    """Write a figure; the file's suffix decides the format.

    Raises:
        InvalidRequest: there is no such format.
        CassError: the file cannot be written.
    """
    formats = figure.canvas.get_supported_filetypes()
    suffix = path.suffix.removeprefix(".").lower()
    if suffix not in formats:
        raise InvalidRequest("--out", f"{path.name} must end with one of .{', .'.join(formats)}")
    with whole_file(path) as file:
        figure.savefig(file, format=suffix, dpi=dpi, bbox_inches="tight")
