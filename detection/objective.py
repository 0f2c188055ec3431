"""Loss of a detector as an objective of training: a frozen YOLO has to find the objects in restored images.

A feature loss (`detection.hooks.features`) keeps the features that a detector looks at; the loss in this module asks
for the boxes themselves, on labelled photographs.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.transforms.v2.functional import resize

from detection.data.auto import read_dataset
from detection.data.classes import COCO_CLASSES, class_map
from detection.data.core import Dataset, Sample
from detection.detectors.ultralytics import training_loss
from glare.data.camera import random_night

#: Side of a window in pixels, a multiple of 32, and windows per call: as many pixels as 8 crops of 128×128.
SIDE, WINDOWS = 256, 2
#: Share of a box's area that has to lie in the window for the box to count.
VISIBLE = 0.4


class DetectionLoss:
    """Training loss of a YOLO on windows of labelled photographs that are darkened and restored.

    The loss is an objective of stage III, ``glare train fusion --objective
    detection.objective:of:yolo26n.pt=photographs``. The detector is not trained. Windows, nights and flips come from
    torch's global random numbers, so that a training that was killed goes on with the same numbers.

    Args:
        loss: images (B,3,H,W) in [0,1], classes and boxes -> a scalar, see
            `detection.detectors.ultralytics.training_loss`.
        names: the detector's classes.
        dataset: labelled photographs by day, which no evaluation may use.

    Raises:
        ValueError: if the detector knows no class of the set.
    """

    def __init__(
        self, loss: Callable[[Tensor, list[Tensor], list[Tensor]], Tensor], names: list[str], dataset: Dataset
    ) -> None:
        self.loss = loss
        self.classes = class_map(dataset.classes, names)
        self.samples = [s for s in dataset.samples if (self.classes[s.labels[~s.crowd]] >= 0).any()]
        if not self.samples:
            raise ValueError(
                f"Expected a box of a class that the detector knows ({', '.join(names)}) but got none."
            )

    def __call__(self, restore: Callable[[Tensor], Tensor]) -> Tensor:
        """Return the loss, a scalar, of ``restore``, a function from dark to restored images (B,3,H,W) in [0,1]."""
        windows = [self.window(self.samples[_draw(len(self.samples))]) for _ in range(WINDOWS)]
        images, classes, boxes = zip(*windows, strict=True)
        low = torch.stack([random_night(image) for image in images])
        return self.loss(restore(low), list(classes), list(boxes))

    def window(self, sample: Sample) -> tuple[Tensor, Tensor, Tensor]:
        """Cut a window (3,SIDE,SIDE) in [0,1] around a labelled box, with all boxes in the window.

        Returns:
            The window, the detector's numbers of the classes (N,), and the boxes (N,4): x1, y1, x2, y2 in pixels.
        """
        image = torch.from_numpy(sample.load().copy()).movedim(2, 0)
        height, width = image.shape[1:]
        classes = self.classes[sample.labels]
        known = (classes >= 0) & ~sample.crowd
        boxes, classes = sample.boxes[known], classes[known]
        fit = SIDE / min(height, width)
        scale = max(1.0, fit) * (min(1.0, fit) ** float(torch.rand(())))  # from whole scenes to single pixels
        size = [max(SIDE, round(side * scale)) for side in (height, width)]
        image = resize(image, size, antialias=True)
        boxes = boxes * np.tile([size[1] / width, size[0] / height], 2)
        x1, y1, x2, y2 = boxes[_draw(len(boxes))]
        left = _around((x1 + x2) / 2, size[1])
        top = _around((y1 + y2) / 2, size[0])
        window = image[:, top : top + SIDE, left : left + SIDE].float() / 255
        boxes, inside = _cut(boxes - [left, top, left, top])
        if _draw(2):
            window = window.flip(2)
            boxes = np.stack((SIDE - boxes[:, 2], boxes[:, 1], SIDE - boxes[:, 0], boxes[:, 3]), 1)
        return window.contiguous(), torch.from_numpy(classes[inside]), torch.from_numpy(boxes).float()


def of(argument: str) -> DetectionLoss:
    """Build a `DetectionLoss` from ``CHECKPOINT=DATA``: a YOLO's ``.pt``, and a set for `detection.read_dataset`.

    A ``.pt`` is a pickle: name only files that you trust.

    Raises:
        ValueError: if the argument is of another form.
    """
    checkpoint, equals, data = argument.partition("=")
    if not (checkpoint and equals and data):
        raise ValueError(f"Expected CHECKPOINT=DATA, such as yolo26n.pt=photographs, but got {argument!r}.")
    loss, names = training_loss(checkpoint)
    return DetectionLoss(loss, names, read_dataset(data, classes=COCO_CLASSES))


def _draw(count: int) -> int:
    return int(torch.randint(count, ()))


def _around(centre: float, size: int) -> int:
    """Draw the start of a window, on one axis, that holds ``centre``."""
    first = round(centre - SIDE * float(torch.rand(())))
    return min(max(first, 0), size - SIDE)


def _cut(boxes: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Cut boxes at the window's border; return the boxes of which enough is left, and the mask (N,) of these boxes."""
    cut = boxes.clip(0, SIDE)
    areas = [(b[:, 2] - b[:, 0]) * (b[:, 3] - b[:, 1]) for b in (cut, boxes)]
    inside = areas[0] >= VISIBLE * areas[1]
    return cut[inside], inside
