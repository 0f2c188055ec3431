"""The names of what is in a box: the twelve classes of ExDark and the eighty of COCO.

ExDark: Loh and Chan, "Getting to Know Low-light Images with the Exclusively Dark Dataset", CVIU 2019.
COCO: Lin et al., "Microsoft COCO: Common Objects in Context", ECCV 2014.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

EXDARK_CLASSES = (
    "Bicycle",
    "Boat",
    "Bottle",
    "Bus",
    "Car",
    "Cat",
    "Chair",
    "Cup",
    "Dog",
    "Motorbike",
    "People",
    "Table",
)
"""The classes of ExDark in the order of its own list."""

# fmt: off
COCO_CLASSES = (
    "person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat", "traffic light",
    "fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat", "dog", "horse", "sheep", "cow",
    "elephant", "bear", "zebra", "giraffe", "backpack", "umbrella", "handbag", "tie", "suitcase", "frisbee",
    "skis", "snowboard", "sports ball", "kite", "baseball bat", "baseball glove", "skateboard", "surfboard",
    "tennis racket", "bottle", "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple",
    "sandwich", "orange", "broccoli", "carrot", "hot dog", "pizza", "donut", "cake", "chair", "couch",
    "potted plant", "bed", "dining table", "toilet", "tv", "laptop", "mouse", "remote", "keyboard",
    "cell phone", "microwave", "oven", "toaster", "sink", "refrigerator", "book", "clock", "vase", "scissors",
    "teddy bear", "hair drier", "toothbrush",
)
# fmt: on
"""The eighty classes of COCO, in the order detectors number them from 0."""

# Everything else that both know has one name.
_EXDARK_TO_COCO = {"motorbike": "motorcycle", "people": "person", "table": "dining table"}


def coco_name(name: str) -> str:
    """Return the COCO name of a class, ``People`` -> ``person``; an unknown name comes back in lower case."""
    return _EXDARK_TO_COCO.get(name.lower(), name.lower())


def class_map(source: Sequence[str], target: Sequence[str]) -> NDArray[np.int64]:
    """Map the class numbers of one list of names to another's.

    Returns:
        (len(source),) numbers in `target`; -1 where `target` does not have the class.
    """
    numbers = {coco_name(name): i for i, name in enumerate(target)}
    return np.array([numbers.get(coco_name(name), -1) for name in source], dtype=np.int64)


def check_classes(names: Sequence[str], classes: Sequence[str], where: object) -> None:
    """Raise a ValueError if no class of a set is among those to keep; `where` says which set."""
    if (class_map(names, classes) < 0).all():
        raise ValueError(
            f"Expected a class of {where} to be one of {', '.join(classes)} but got {', '.join(names)}."
        )
