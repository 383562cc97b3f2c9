"""COCO average precision of detections: all, small, and elongated objects."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from cass_lab.data.dataset import Dataset
from cass_lab.data.objects import ELONGATED

AP_NAMES = ("AP", "AP50", "AP_small", "AP_elongated")

# COCO counts both ends of a range; groups of shapes begin beyond this.
_MORE_THAN_ELONGATED = float(np.nextafter(ELONGATED, 2))


class Detections(NamedTuple):
    """Boxes found in one image.

    Attributes:
        xyxy: ``[K, 4]`` float32, pixels.
        scores: ``[K]`` float32 in [0, 1].
        labels: ``[K]`` int64 class index.
    """

    xyxy: npt.NDArray[np.float32]
    scores: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]


def average_precision(detections: Sequence[Detections], data: Dataset) -> dict[str, float]:
    """AP over IoU 0.5 to 0.95 as COCO defines it, of all objects and of two groups.

    ``AP_small`` is of objects up to 32² pixels, ``AP_elongated`` of those with one side more than
    1.5 times the other. As for COCO's sizes, objects outside the group are ignored, and so are
    unmatched detections of a shape outside it.

    Args:
        detections: one entry an image.
        data: what is there.

    Returns:
        A value in [0, 1] for each of `AP_NAMES`; NaN where no object is in the group.
    """
    from faster_coco_eval import COCO, COCOeval_faster

    truth = COCO(_truth(data), print_function=_quiet)
    # Elongation stands in for the area, whose ranges are how COCO forms groups.
    by_shape = COCO(_truth(data), print_function=_quiet)
    for annotation in by_shape.dataset["annotations"]:
        annotation["area"] = _elongation(annotation["bbox"])
    results = _results(detections)
    found = truth.loadRes([dict(r) for r in results])
    found_by_shape = by_shape.loadRes([dict(r) for r in results])
    for annotation in found_by_shape.dataset["annotations"]:
        annotation["area"] = _elongation(annotation["bbox"])
    values = {}
    for actual, predicted, ranges in (
        (truth, found, {"AP_small": [0, 32**2]}),
        (by_shape, found_by_shape, {"AP_elongated": [_MORE_THAN_ELONGATED, 1e10]}),
    ):
        evaluation = COCOeval_faster(
            actual,
            predicted,
            "bbox",
            ranges={"rest": [0, 1e10], **ranges},
            print_function=_quiet,
        )
        evaluation.evaluate()
        evaluation.accumulate()
        # [IoU, recall, class, range, most detections], -1 where a class has no object.
        precision = np.asarray(evaluation.eval["precision"])
        everything = precision[:, :, :, 0, -1]
        values["AP"], values["AP50"] = _mean(everything), _mean(everything[0])
        values[next(iter(ranges))] = _mean(precision[:, :, :, 2, -1])
    return {name: values[name] for name in AP_NAMES}


def _truth(data: Dataset) -> dict[str, Any]:
    images = data.image_of()
    return {
        "images": [
            {"id": i, "height": data.image_size[0], "width": data.image_size[1]}
            for i in range(len(data))
        ],
        "categories": [{"id": i, "name": name} for i, name in enumerate(data.class_names)],
        "annotations": [
            {
                "id": i + 1,
                "image_id": int(images[i]),
                "category_id": int(data.labels[i]),
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "area": (x2 - x1) * (y2 - y1),
                "iscrowd": 0,
            }
            for i, (x1, y1, x2, y2) in enumerate(data.xyxy.astype(np.float64).tolist())
        ],
    }


def _results(detections: Sequence[Detections]) -> list[dict[str, Any]]:
    return [
        {
            "image_id": image,
            "category_id": int(label),
            "bbox": [x1, y1, x2 - x1, y2 - y1],
            "score": float(score),
        }
        for image, found in enumerate(detections)
        for (x1, y1, x2, y2), score, label in zip(
            found.xyxy.astype(np.float64).tolist(), found.scores, found.labels, strict=True
        )
    ]


def _elongation(bbox: Sequence[float]) -> float:
    short, long = sorted(bbox[2:])
    return long / short if short > 0 else 0.0


def _mean(precision: Any) -> float:
    there = precision[precision > -1]
    return float(there.mean()) if there.size else float("nan")


def _quiet(*_: object) -> None:
    """The library prints its progress otherwise."""
