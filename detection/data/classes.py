"""Names of the classes of boxes: the twelve of ExDark and the eighty of COCO.

ExDark: Loh and Chan, "Getting to Know Low-light Images with the Exclusively Dark Dataset", CVIU 2019.
COCO: Lin et al., "Microsoft COCO: Common Objects in Context", ECCV 2014.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from glare.reading import read_text

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
"""The classes of ExDark in the order of ExDark's own list."""

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
"""The eighty classes of COCO, in the order in which detectors number the classes from 0."""

# fmt: off
_SYNONYMS = {
    # ExDark
    "motorbike": "motorcycle", "people": "person", "table": "dining table",
    # PASCAL VOC
    "aeroplane": "airplane", "sofa": "couch", "tvmonitor": "tv",
    # BDD100K and other sets of streets; for COCO a rider is a person too
    "bike": "bicycle", "motor": "motorcycle", "pedestrian": "person", "rider": "person",
    # names that people and newer lists use
    "plane": "airplane", "television": "tv", "mobilephone": "cell phone",
    "fridge": "refrigerator", "hairdryer": "hair drier", "doughnut": "donut", "human": "person", "automobile": "car",
}
# fmt: on
"""Other names of COCO's classes, without spaces; spelling, case, hyphens and plurals need no entry."""


def _letters(name: str) -> str:
    return re.sub(r"[\W_]+", "", name.casefold())


_COCO = {_letters(name): name for name in COCO_CLASSES}


def coco_name(name: str) -> str:
    """Return the COCO name of a class; an unknown name comes back in lower case.

    >>> [coco_name(name) for name in ("People", "TV-Monitor", "dining_tables", "Zebra crossing")]
    ['person', 'tv', 'dining table', 'zebra crossing']
    """
    letters = _letters(name)
    singular = (letters.removesuffix("s"), letters.removesuffix("es"), re.sub("ies$", "y", letters))
    for key in (letters, *singular):
        if known := _SYNONYMS.get(key) or _COCO.get(key):
            return known
    return name.lower()


def class_map(source: Sequence[str], target: Sequence[str]) -> NDArray[np.int64]:
    """Map the class numbers of one list of names to those of another, by names that are equal or mean the same.

    Returns:
        (len(source),) numbers in `target`; -1 where `target` does not have the class.
    """
    same: dict[str, int] = {}
    alike: dict[str, int] = {}
    for number, name in enumerate(target):
        same.setdefault(_letters(name), number)
        alike.setdefault(_letters(coco_name(name)).removesuffix("s"), number)
    found = [
        same.get(_letters(name), alike.get(_letters(coco_name(name)).removesuffix("s"), -1))
        for name in source
    ]
    return np.array(found, dtype=np.int64)


def check_classes(names: Sequence[str], classes: Sequence[str], where: object) -> None:
    """Raise a ValueError if no class of a set is among the classes to keep; `where` names the set."""
    if (class_map(names, classes) < 0).all():
        raise ValueError(
            f"Expected a class of {where} to be one of {', '.join(classes)} but got {', '.join(names)}."
        )


def without_use(classes: Sequence[str], names: Sequence[str], detectors: Mapping[str, Sequence[str]]) -> str:
    """Return a line on the unused classes of a set and of detectors: the classes that were not asked for.

    Args:
        classes: the classes that were asked for.
        names: all classes of the set; empty where the set does not name its classes.
        detectors: the classes that each detector knows, by the detector's name.
    """

    def others(has: Sequence[str]) -> list[str]:
        of = zip(has, class_map(has, classes), strict=True)
        # Torchvision's detectors number gaps too.
        return list(dict.fromkeys(name for name, n in of if n < 0 and name not in ("N/A", "__background__")))

    def missing(has: Sequence[str]) -> list[str]:
        return [name for name, number in zip(classes, class_map(classes, has), strict=True) if number < 0]

    parts = [f"Classes asked for: {_listed(classes)}"]
    for title, has in (({"the set": names} if names else {}) | dict(detectors)).items():
        left, lacks = others(has), missing(has)
        parts.append(
            f"{title or 'the detector'} has {f'also {_listed(left)}, not used' if left else 'no others'}"
            + (f", and lacks {_listed(lacks)}" if lacks else "")
        )
    everybody = [*names, *(name for has in detectors.values() for name in has)]
    nobody = missing(everybody)
    return "; ".join([*parts, *([f"nobody has {_listed(nobody)}"] if nobody else [])]) + "."


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:12]) + (f" and {len(names) - 12} more" if len(names) > 12 else "")


def read_classes(text: str) -> tuple[str, ...]:
    """Return the classes that ``--classes`` means: ``exdark``, ``coco``, names with commas, or a file of names.

    Raises:
        ValueError: if there is no name, or a name is there twice.
    """
    by_name = {"exdark": EXDARK_CLASSES, "coco": COCO_CLASSES}
    if text in by_name:
        return by_name[text]
    file = Path(text)
    lines = read_text(file).splitlines() if file.is_file() else text.split(",")
    names = [name for line in lines if (name := line.strip())]
    if not names or len(set(map(_letters, names))) < len(names):
        raise ValueError(f"Expected argument `classes` to name classes, each once, but got {text!r}.")
    return tuple(names)
