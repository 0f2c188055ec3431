"""Types of a labelled set of images and of the detections in an image."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torch.utils import data
from torchvision import tv_tensors

from detection.data.classes import EXDARK_CLASSES
from glare.files import IMAGE_SUFFIXES
from glare.reading import Header, read_image

Pixels = NDArray[np.uint8]
"""(H, W, 3) uint8 RGB."""


def load_image(path: str | Path, *, upright: bool = False) -> Pixels:
    """Read an image as (H, W, 3) uint8 RGB; see `glare.reading.read_image`.

    Args:
        path: the file.
        upright: whether to turn the pixels as EXIF orientation says. The boxes of a set belong either to the stored
            pixels or to the upright pixels; this choice has to agree with the boxes.

    Raises:
        OSError: if the file is missing or cannot be decoded.
        ValueError: if the values of the image cannot be converted to 8 bits.
    """
    return read_image(path, upright=upright)


def gathered(told: Iterable[tuple[str, str]]) -> list[str]:
    """Return a line for each message about images, with the name of the first image and how many more there are.

    >>> gathered([("a.png", "too deep"), ("b.png", "too wide"), ("c.png", "too deep")])
    ['a.png and 1 more: too deep', 'b.png: too wide']
    """
    names: dict[str, list[str]] = {}
    for name, what in told:
        names.setdefault(what, []).append(name)
    return [
        f"{first}{f' and {len(more)} more' if more else ''}: {what}" for what, (first, *more) in names.items()
    ]


def clip(
    boxes: NDArray[np.float64], width: float, height: float
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Cut boxes to an image.

    Args:
        boxes: (N, 4), x1 y1 x2 y2 in pixels.
        width: width of the image in pixels.
        height: height of the image in pixels.

    Returns:
        The cut boxes, (N, 4), and whether something of each box remains, (N,).
    """
    inside = np.clip(boxes, 0, [width, height, width, height])
    return inside, (inside[:, 2] > inside[:, 0]) & (inside[:, 3] > inside[:, 1])


@dataclass(frozen=True)
class Detections:
    """Objects that a detector found in one image.

    Attributes:
        boxes: (N, 4) float, x1 y1 x2 y2 in pixels of the image.
        scores: (N,) float in [0,1].
        labels: (N,) int, numbers in the detector's `names`.

    Raises:
        ValueError: if `boxes`, `scores` and `labels` do not have these shapes, or a box or a score is not finite.

    >>> found = Detections(np.array([[0.0, 0.0, 9.0, 5.0]]), np.array([0.8]), np.array([2]))
    >>> len(found)
    1
    """

    boxes: NDArray[np.float64]
    scores: NDArray[np.float64]
    labels: NDArray[np.int64]

    def __post_init__(self) -> None:
        n = len(self.boxes)
        if self.boxes.shape != (n, 4) or self.scores.shape != (n,) or self.labels.shape != (n,):
            raise ValueError(
                "Expected arguments `boxes`, `scores` and `labels` of shapes (N, 4), (N,) and (N,) "
                f"but got {self.boxes.shape}, {self.scores.shape} and {self.labels.shape}."
            )
        # A network that computes NaN finds nothing or anything; neither must pass for a result.
        if not (np.isfinite(self.boxes).all() and np.isfinite(self.scores).all()):
            raise ValueError("Expected arguments `boxes` and `scores` to be finite but got NaN or infinity.")

    def __len__(self) -> int:
        return len(self.boxes)

    def relabel(self, mapping: NDArray[np.int64]) -> Detections:
        """Renumber the classes by a `class_map`; detections whose class maps to -1 are dropped."""
        labels = mapping[self.labels]
        kept = labels >= 0
        return Detections(self.boxes[kept], self.scores[kept], labels[kept])


@dataclass(frozen=True)
class Sample:
    """One labelled image; nothing is decoded before `load` is called.

    Attributes:
        name: unique within its set at one light and draw; also the key of the simulated noise.
        load: returns the (H, W, 3) uint8 RGB image; raises OSError or ValueError if the image cannot be read.
        boxes: (N, 4) float, x1 y1 x2 y2 in pixels of the image that `load` returns.
        labels: (N,) int, numbers in the set's `classes`.
        crowd: (N,) bool; a detection of a crowd's box counts neither as a hit nor as a mistake (COCO's ``iscrowd``).
        light: the name of the light the image was taken in, or of the part of a test set that holds the image.
        reference: returns the same scene in normal light, where there is such an image.
        place: ``indoor``, ``outdoor``, or empty where the set does not say.
        category: the set's class for the image as a whole, or empty where the set gives none.
        path: the file that `load` reads; None where the pixels are made when they are loaded.
        reference_path: the file that `reference` reads, or None.
        upright: whether `load` turns the pixels of the file as its EXIF orientation says.
        draw: which of several draws of the simulated light and noise, from 0 up.

    >>> black = lambda: np.zeros((40, 60, 3), np.uint8)
    >>> sample = Sample("a", black, np.array([[5.0, 6.0, 15.0, 18.0]]), np.array([0]), np.array([False]))
    >>> sample.load().shape, sample.light
    ((40, 60, 3), 'as stored')
    """

    name: str
    load: Callable[[], Pixels]
    boxes: NDArray[np.float64]
    labels: NDArray[np.int64]
    crowd: NDArray[np.bool_]
    light: str = "as stored"
    reference: Callable[[], Pixels] | None = None
    place: str = ""
    category: str = ""
    path: Path | None = None
    reference_path: Path | None = None
    upright: bool = False
    draw: int = 0

    @property
    def scene(self) -> str:
        """Key of the photographed scene, which all levels, exposures and draws of one photograph share."""
        return str(self.reference_path or self.path or self.name)


def file_sample(
    name: str,
    path: Path,
    boxes: ArrayLike,
    labels: Sequence[int],
    crowd: Sequence[bool] | None = None,
    *,
    upright: bool = False,
) -> Sample:
    """Return the sample of an image file and its boxes, (N, 4); no box is a crowd unless `crowd` says so."""
    return Sample(
        name,
        partial(load_image, path, upright=upright),
        np.array(boxes, dtype=np.float64).reshape(-1, 4),
        np.array(labels, dtype=np.int64),
        np.array([False] * len(labels) if crowd is None else crowd, dtype=np.bool_),
        path=path,
        upright=upright,
    )


def inside_image(sample: Sample, width: int, height: int) -> tuple[Sample, list[str]]:
    """Cut the boxes of a sample to its image, and drop duplicates and boxes of which nothing remains.

    Returns:
        The sample, and one line each on boxes that were cut and boxes that were dropped.
    """
    boxes, remains = clip(sample.boxes, width, height)
    # A smaller change is the rounding of a label file, and no fault.
    cut = remains & (np.abs(boxes - sample.boxes) > 0.01).any(axis=1)
    empty = (sample.boxes[:, 2] <= sample.boxes[:, 0]) | (sample.boxes[:, 3] <= sample.boxes[:, 1])
    marks = np.column_stack([sample.boxes, sample.labels, sample.crowd])
    again = np.ones(len(boxes), dtype=np.bool_)
    again[np.unique(marks, axis=0, return_index=True)[1]] = False
    again &= remains
    whole = f"of {len(boxes)} boxes, as the image measures {width}×{height} pixels"
    faults = [
        f"{sample.name}: {what} {number} {of}"
        for what, number, of in (
            ("cut", (cut & ~again).sum(), whole),
            ("dropped", (~remains & ~empty).sum(), whole),
            ("dropped", empty.sum(), f"of {len(boxes)} boxes, without width or height"),
            ("dropped", again.sum(), f"of {len(boxes)} boxes, which are there twice"),
        )
        if number
    ]
    kept = remains & ~again
    return replace(sample, boxes=boxes[kept], labels=sample.labels[kept], crowd=sample.crowd[kept]), faults


def placed(said: tuple[float, float] | None, header: Header) -> tuple[bool, float, float, str]:
    """Determine which pixels of an image file the boxes of an annotation belong to.

    Args:
        said: (width, height) of the image by the annotation; None where the annotation gives no size.
        header: header of the image file.

    Returns:
        Whether to turn the image upright; the factors to multiply the boxes by, x and y; and a message, or ``""``.

    Raises:
        ValueError: if the image has another shape than the annotation says, stored as well as upright.
    """
    turned = header.orientation > 1
    if said is None:
        return turned, 1.0, 1.0, "its size is not said and EXIF turns it: taken upright" if turned else ""
    fits = [size == said for size in (header.upright, header.size)]
    if any(fits):
        unsaid = turned and all(fits)
        return (
            turned and fits[0],
            1.0,
            1.0,
            "EXIF turns it and its size is the same: taken upright" if unsaid else "",
        )
    for size in (header.upright, header.size):
        # Both sides are rounded to whole pixels.
        if min(said) > 0 and abs(size[0] * said[1] - size[1] * said[0]) <= max(*size, *said):
            of = f"it measures {size[0]}×{size[1]} where its boxes are of {said[0]:g}×{said[1]:g}"
            upright = turned and size == header.upright
            return upright, size[0] / said[0], size[1] / said[1], f"{of} pixels: they were scaled"
    raise ValueError(
        f"its boxes are of {said[0]:g}×{said[1]:g} pixels but it measures {header.size[0]}×{header.size[1]}"
    )


def numbers(fields: Sequence[str]) -> list[float]:
    """Read words of a label file as numbers.

    Raises:
        ValueError: if a word is no number, or not a finite one.
    """
    values = [float(field) for field in fields]
    if not all(map(math.isfinite, values)):
        raise ValueError(f"expected finite numbers but got {' '.join(fields)!r}")
    return values


def flag(value: object) -> bool:
    """Read a flag of an annotation, however its writer spelled it.

    Raises:
        ValueError: if it is neither yes nor no.

    >>> flag(1), flag("True"), flag("0"), flag("False"), flag(None)
    (True, True, False, False, False)
    """
    word = str(value or 0).strip().lower()
    if word in ("1", "1.0", "true", "yes"):
        return True
    if word in ("0", "0.0", "false", "no", ""):
        return False
    raise ValueError(f"expected 0 or 1 for a flag but got {value!r}")


def capped(lines: Sequence[str], most: int = 20) -> list[str]:
    """Return the first of many lines, and how many more there are.

    >>> capped(["a", "b", "c", "d"], 2)
    ['a', 'b', 'and 2 more like these']
    """
    return [*lines[:most], *([f"and {len(lines) - most} more like these"] if len(lines) > most else [])]


def find_below(folder: Path, name: str) -> Path:
    """Return the file that a set calls ``name``, as it lies below a folder on this machine.

    Sets that were made elsewhere hold absolute paths of that machine, whose last parts may lie below the folder, or
    another case of the ending, where the file system did not care.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> (folder / "val").mkdir()
    >>> (folder / "val" / "1.jpg").touch()
    >>> find_below(folder, "D:/theirs/set/val/1.JPG").relative_to(folder).as_posix()
    'val/1.jpg'
    """
    path = folder / name
    if path.is_file():
        return path
    parts = PurePosixPath(name).parts
    elsewhere = parts[0] == "/" or parts[0].endswith(":") if parts else False
    tails = [folder.joinpath(*parts[first:]) for first in range(1, len(parts))] if elsewhere else [path]
    endings = (path.suffix, path.suffix.lower(), path.suffix.upper())
    tried = (tail.with_suffix(ending) for tail in tails if tail.name for ending in endings)
    return next((file for file in tried if file.is_file()), path)


def relative_name(name: str) -> Path:
    """Return the name of a sample as the path of a file below some folder.

    Raises:
        ValueError: if the path would lie outside the folder; a COCO JSON file may hold any name.
    """
    if not name or PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
        raise ValueError(
            f"Expected argument `dataset` to have names of files below a folder but got {name!r}."
        )
    return Path(name)


def stems(names: Sequence[str]) -> list[str]:
    """Return the names of images without endings, except names that differ in their endings alone."""
    short = [
        name[: -len(end)] if (end := Path(name).suffix).lower() in IMAGE_SUFFIXES else name for name in names
    ]
    count = Counter(map(str.casefold, short))
    return [name if count[stem.casefold()] > 1 else stem for name, stem in zip(names, short, strict=True)]


Target = dict[str, Tensor]
"""``boxes``, (N, 4) `tv_tensors.BoundingBoxes`, x1 y1 x2 y2; ``labels``, (N,) int64; ``iscrowd``, (N,) bool."""


@dataclass(frozen=True)
class Dataset(data.Dataset[tuple[tv_tensors.Image, Target]]):
    """Labelled images and the names of their classes; torch's `DataLoader` takes such a set too.

    >>> from torch.utils.data import DataLoader
    >>> from detection import sample_set
    >>> image, target = sample_set()[3]
    >>> image.shape, target["boxes"].shape, sample_set().classes[target["labels"][0]]
    (torch.Size([3, 300, 451]), torch.Size([1, 4]), 'Cat')
    >>> len(DataLoader(sample_set(), batch_size=2, collate_fn=list))
    3

    Attributes:
        samples: the images.
        classes: the names that the labels number.
        note: a remark for the reader of a result on this set.
        faults: images and labels that could not be read or had to be mended, one line each.
        left_out: how many images are missing from `samples` for such faults.
        names: all classes that the set itself has, in `classes` or not; empty where the set has no classes.
    """

    samples: tuple[Sample, ...]
    classes: tuple[str, ...] = EXDARK_CLASSES
    note: str = ""
    faults: tuple[str, ...] = ()
    left_out: int = 0
    names: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[tv_tensors.Image, Target]:
        """Load an image, (3, H, W) uint8 RGB, and its boxes as torchvision's detectors and transforms take them.

        Raises:
            IndexError: if there is no such image.
            OSError, ValueError: if the image cannot be read.
        """
        sample = self.samples[index]
        image = tv_tensors.Image(torch.tensor(sample.load()).permute(2, 0, 1).contiguous())
        height, width = image.shape[-2:]
        boxes = tv_tensors.BoundingBoxes(
            torch.tensor(sample.boxes, dtype=torch.float32), format="XYXY", canvas_size=(height, width)
        )
        return image, {
            "boxes": boxes,
            "labels": torch.tensor(sample.labels),
            "iscrowd": torch.tensor(sample.crowd),
        }

    def replace(self, **changes: Any) -> Dataset:
        """Return the set with some attributes changed; the result is a plain `Dataset`, also for a subclass."""
        return Dataset(**{field.name: getattr(self, field.name) for field in fields(self)} | changes)
