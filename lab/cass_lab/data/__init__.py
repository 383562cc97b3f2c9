"""Pictures, objects and targets of a COCO data set."""
