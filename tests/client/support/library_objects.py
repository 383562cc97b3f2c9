"""Objects that have boxes, with the attributes of those libraries that tests do without."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor


@dataclass
class Boxes:
    """As ``detectron2.structures.Boxes`` and mmdet's ``HorizontalBoxes``; ``RotatedBoxes`` too."""

    tensor: Tensor

    def __len__(self) -> int:
        return len(self.tensor)


@dataclass
class Instances:
    """As ``detectron2.structures.Instances``."""

    gt_boxes: Boxes
    image_size: tuple[int, int] = (32, 48)


@dataclass
class InstanceData:
    """As ``mmengine.structures.InstanceData``."""

    bboxes: Any

    def __len__(self) -> int:
        return len(self.bboxes)


@dataclass
class DetDataSample:
    """As ``mmdet.structures.DetDataSample``."""

    gt_instances: InstanceData
    ignored_instances: InstanceData | None = None
    img_shape: tuple[int, int] = (32, 48)


@dataclass
class Detections:
    """As ``supervision.Detections``."""

    xyxy: np.ndarray[Any, Any]
    class_id: Any = None


@dataclass
class NestedTensor:
    """As DETR's ``NestedTensor``: a mask that is true where there is padding."""

    tensors: Tensor
    mask: Tensor | None = field(default=None)


@dataclass
class ImageList:
    """As ``torchvision.models.detection.image_list.ImageList``."""

    tensors: Tensor
    image_sizes: list[tuple[int, int]]
