"""Draws kept.png: what two trained predictors keep of one picture, and which objects they lose.

    python docs/kept.py test.json --images images/ --image 42 --out docs/kept.png \
        --predictor "baseline=OUT/models/A.pt" --predictor "object weights=OUT/models/B.pt"
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cass_cli.coco import read_coco
from cass_cli.figures import load_picture, stretch, stretch_boxes
from cass_core.plotting.predictions import plot_kept
from cass_lab.scoring import load_trained, pruned


def main(
    coco: Path,
    image: Annotated[str, typer.Option(help="Id of the image in the file.")],
    images: Annotated[Path, typer.Option(help="Folder with the pictures.")],
    predictor: Annotated[list[str], typer.Option(help="LABEL=X.pt, a panel each.")],
    out: Annotated[Path, typer.Option(help="The figure to write.")],
    keep: Annotated[float, typer.Option(help="Share of patches to keep.")] = 0.1,
    stride: Annotated[int, typer.Option(help="Pixels of a patch's side.")] = 8,
    zoom: Annotated[str, typer.Option(help="x1,y1,x2,y2 to show enlarged.")] = "",
) -> None:
    """Draw the figure."""
    file = read_coco(coco)
    i = file.index(image)
    size = file.size(i)
    picture = load_picture(images, file.file_names[i], size, image)
    boxes = file.xyxy[file.offsets[i] : file.offsets[i + 1]]
    choices = {}
    for named in predictor:
        label, _, path = named.partition("=")
        trained = load_trained(Path(path), stride)
        shown = stretch(picture, trained.image_size)
        xyxy = stretch_boxes(boxes, size, trained.image_size)
        choices[label] = pruned(trained.logits(shown), xyxy, trained.image_size, keep)
    part = [float(side) for side in zoom.split(",")] if zoom else None
    plot_kept(shown, xyxy, choices, zoom=part).savefig(out, dpi=115, bbox_inches="tight")
    typer.echo(str(out))


if __name__ == "__main__":
    typer.run(main)
