"""Writes the contact sheet: one HTML file with all pictures, masks and scores in it."""

from __future__ import annotations

import base64
import hashlib
import html
import io
import json
import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from cass_cli.files import whole_file
from cass_lab.data.objects import SIZES, patch_ranges, size_groups
from cass_lab.measures.keeping import ranks_of
from cass_lab.scoring import best_ranks

_QUALITY = 80
# Pixels of the longer side as shown; boxes and masks keep the coordinates of the whole picture.
_LONGEST_SIDE = 1280


@dataclass(frozen=True, slots=True)
class SheetImage:
    """What the sheet shows of one image.

    Attributes:
        image_id: as in the data set.
        file_name: of its picture.
        picture: ``[H, W, 3]`` uint8 RGB.
        xyxy: ``[N, 4]`` boxes in pixels.
        labels: ``[N]`` index into the sheet's class names.
        baseline: ``[n_y, n_x]`` uint8 mask.
        improved: ``[n_y, n_x]`` uint8 mask.
        owner: ``[n_y, n_x]`` index of the box that gave a patch its improved value, or -1.
        bare: ``[N]`` whether a box has no patch in the improved mask.
        logits: ``[n_y, n_x]`` float32, or None without a predictor.
    """

    image_id: str
    file_name: str
    picture: npt.NDArray[np.uint8]
    xyxy: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]
    baseline: npt.NDArray[np.uint8]
    improved: npt.NDArray[np.uint8]
    owner: npt.NDArray[np.int32]
    bare: npt.NDArray[np.bool_]
    logits: npt.NDArray[np.float32] | None

    def facts(self) -> dict[str, Any]:
        """What the page knows of each image from the start: it filters by these."""
        size = (self.picture.shape[0], self.picture.shape[1])
        grid = (self.baseline.shape[0], self.baseline.shape[1])
        ranges = patch_ranges(self.xyxy, size, grid)
        best = [] if self.logits is None else best_ranks(ranks_of(self.logits), ranges).tolist()
        return {
            "id": self.image_id,
            "name": self.file_name,
            "size": size,
            "grid": grid,
            "boxes": self.xyxy.astype(np.float64).round(1).tolist(),
            "sizes": size_groups(self.xyxy).tolist(),
            "labels": self.labels.tolist(),
            "ranges": ranges.tolist(),
            "best": best,
            "bare": self.bare.tolist(),
        }

    def block(self) -> dict[str, str]:
        """What the page decodes when the image comes into view, in base64."""
        picture, jpeg = Image.fromarray(self.picture), io.BytesIO()
        picture.thumbnail((_LONGEST_SIDE, _LONGEST_SIDE))
        picture.save(jpeg, "JPEG", quality=_QUALITY, optimize=True)
        # In the order that sheet.js reads them in.
        layers = self.owner.astype("<i4").tobytes() + self.baseline.tobytes()
        layers += self.improved.tobytes()
        if self.logits is not None:
            layers += self.logits.astype("<f4").tobytes()
        return {
            "jpeg": base64.b64encode(jpeg.getvalue()).decode(),
            "layers": base64.b64encode(zlib.compress(layers, 9)).decode(),
        }


@contextmanager
def sheet_page(
    path: Path, title: str, stride: int, predictor: str | None, class_names: Sequence[str]
) -> Iterator[Callable[[SheetImage], None]]:
    """A function that adds the next image to a page, which is there once the context ends well.

    Args:
        path: the HTML file.
        title: a line above.
        stride: pixels of a patch's side.
        predictor: name of what gave the logits, or None if there are none.
        class_names: what labels stand for.
    """
    before, after = _page(title)
    images: list[dict[str, Any]] = []
    sheet = {
        "stride": stride,
        "predictor": predictor,
        "classes": list(class_names),
        "sizes": SIZES,
        "images": images,
    }
    with whole_file(path) as file:

        def add(image: SheetImage) -> None:
            file.write(_element(f"image-{len(images)}", image.block()))
            images.append(image.facts())

        file.write(before)
        yield add
        file.write(_element("sheet", sheet) + after)


def _element(element_id: str, value: dict[str, Any]) -> bytes:
    # Without "<" nothing in it ends the element, whatever a file is called.
    text = json.dumps(value, separators=(",", ":")).replace("<", "\\u003c")
    return f'<script type="application/json" id="{element_id}">{text}</script>\n'.encode()


def _page(title: str) -> tuple[bytes, bytes]:
    """What comes before the data and after it."""
    here = Path(__file__).parent
    template, style, script = (
        (here / f"sheet.{suffix}").read_text(encoding="utf-8") for suffix in ("html", "css", "js")
    )
    # The file needs no network, and text of the data set can run nothing, even if some got through.
    policy = (
        f"default-src 'none'; base-uri 'none'; form-action 'none'; img-src data:; "
        f"style-src {_digest(style)}; script-src {_digest(script)}"
    )
    values = {
        "TITLE": html.escape(title),
        "POLICY": policy,
        "STYLE": style,
        "SCRIPT": script,
    }
    before, after = (
        # In one go: what is put in may itself look like a place to put something.
        re.sub(r"\{\{(\w+)\}\}", lambda place: values[place[1]], half).encode("utf-8", "replace")
        for half in template.split("{{DATA}}")
    )
    return before, after


def _digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
