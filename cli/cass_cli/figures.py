"""What the commands that draw have in common: pictures from disk, figures to disk."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from cass_core.errors import CassError, InvalidRequest

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def require_plots() -> None:
    """Rejects to draw without matplotlib.

    Raises:
        CassError: it is not installed.
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise CassError('figures need matplotlib; install it with: pip install "cass[plot]"')


def load_picture(images: Path | None, file_name: str, size: tuple[int, int]) -> Any:
    """The picture ``[H, W, 3]``, or None for a plain canvas where no folder is given.

    Raises:
        InvalidRequest: the file is missing, is no picture, or has another size.
    """
    if images is None:
        return None
    from PIL import Image, UnidentifiedImageError

    path = images / file_name
    try:
        with Image.open(path) as picture:
            pixels: npt.NDArray[np.uint8] = np.asarray(picture.convert("RGB"))
    except (FileNotFoundError, IsADirectoryError, UnidentifiedImageError) as error:
        raise InvalidRequest("--images", f"{path} is not a picture") from error
    if pixels.shape[:2] != size:
        raise InvalidRequest(
            "--images", f"{path} is {pixels.shape[:2]} pixels, the annotations say {size}"
        )
    return pixels


def figure_path(folder: Path, image_id: int | str) -> Path:
    """A file for this image's figure; ids may hold anything, a path separator too.

    Example:
        >>> figure_path(Path("out"), "a/b 1").name
        'a_b_1.png'
    """
    return folder / (re.sub(r"[^\w.-]", "_", str(image_id)) + ".png")


def save(figure: Figure, path: Path) -> None:
    """Write a figure; the file's suffix decides the format.

    Raises:
        InvalidRequest: there is no such format.
    """
    formats = figure.canvas.get_supported_filetypes()
    if path.suffix.removeprefix(".").lower() not in formats:
        raise InvalidRequest("--out", f"{path.name} must end with one of .{', .'.join(formats)}")
    figure.savefig(path, dpi=100, bbox_inches="tight")
