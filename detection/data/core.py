"""A labelled set of images, and what a detector finds in one."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torch.utils import data
from torchvision import tv_tensors

from detection.data.classes import EXDARK_CLASSES
from glare.files import IMAGE_SUFFIXES

Pixels = NDArray[np.uint8]
"""(H, W, 3) uint8 RGB."""


def open_image(path: str | Path) -> Image.Image:
    """Open an image with Pillow; nothing but its header is read.

    Raises:
        OSError: if the file is missing, no image, or larger than Pillow takes for an honest one.
    """
    try:
        return Image.open(path)
    except ModuleNotFoundError as error:
        # Importing ultralytics replaces Image.open: what Pillow cannot read then asks for a plugin instead.
        raise UnidentifiedImageError(f"cannot identify image file {str(path)!r}") from error
    except Image.DecompressionBombError as error:
        raise OSError(str(error)) from error


def load_image(path: str | Path) -> Pixels:
    """Read an image as (H, W, 3) uint8 RGB in its stored pixels: EXIF orientation is not applied.

    Boxes of a data set belong to the stored pixels, so turning one without the other would part them.

    Raises:
        OSError: if the file is missing or cannot be decoded.
    """
    with open_image(path) as image:
        try:
            return np.asarray(image.convert("RGB"))
        except SyntaxError as error:  # Pillow's word for a broken chunk in a PNG
            raise OSError(f"cannot decode {path}: {error}") from error


def clip(
    boxes: NDArray[np.float64], width: float, height: float
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Cut boxes to an image.

    Args:
        boxes: (N, 4), x1 y1 x2 y2 in pixels.
        width: of the image.
        height: of the image.

    Returns:
        The boxes, (N, 4), and of which of them something remains, (N,).
    """
    inside = np.clip(boxes, 0, [width, height, width, height])
    return inside, (inside[:, 2] > inside[:, 0]) & (inside[:, 3] > inside[:, 1])


@dataclass(frozen=True)
class Detections:
    """What a detector found in one image.

    Attributes:
        boxes: (N, 4) float, x1 y1 x2 y2 in pixels of the stored image.
        scores: (N,) float in [0,1].
        labels: (N,) int, numbers in the detector's `names`.

    Raises:
        ValueError: if the three do not have these shapes.

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

    def __len__(self) -> int:
        return len(self.boxes)

    def relabel(self, mapping: NDArray[np.int64]) -> Detections:
        """Number the classes anew by a `class_map`; what maps to -1 is dropped."""
        labels = mapping[self.labels]
        kept = labels >= 0
        return Detections(self.boxes[kept], self.scores[kept], labels[kept])


@dataclass(frozen=True)
class Sample:
    """One labelled image; nothing is decoded before `load` is called.

    Attributes:
        name: unique within its set at one light; also the key of the simulated noise.
        load: returns the (H, W, 3) uint8 RGB image; raises OSError or ValueError where it cannot.
        boxes: (N, 4) float, x1 y1 x2 y2 in pixels of the stored image.
        labels: (N,) int, numbers in the set's `classes`.
        crowd: (N,) bool; a crowd's box is neither to be found nor a mistake when found (COCO's ``iscrowd``).
        light: the name of the light the image was taken in, or of the part of a test set that it is in.
        reference: returns the same scene in normal light, where there is such an image.
        place: ``indoor``, ``outdoor``, or empty where the set does not say.
        category: what the image as a whole is said to show, or empty where the set does not say.
        path: the file that `load` reads; None where the pixels are made when they are loaded.
        reference_path: the file that `reference` reads, or None.

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

    @property
    def scene(self) -> str:
        """What tells photographs apart: darkened at several levels, or exposed several times, they are one scene."""
        return str(self.reference_path or self.path or self.name)


def file_sample(
    name: str,
    path: Path,
    boxes: ArrayLike,
    labels: Sequence[int],
    crowd: Sequence[bool] | None = None,
) -> Sample:
    """Return the sample of an image file and its boxes, (N, 4); none of them is a crowd unless `crowd` says so."""
    return Sample(
        name,
        partial(load_image, path),
        np.array(boxes, dtype=np.float64).reshape(-1, 4),
        np.array(labels, dtype=np.int64),
        np.array([False] * len(labels) if crowd is None else crowd, dtype=np.bool_),
        path=path,
    )


def inside_image(sample: Sample, width: int, height: int) -> tuple[Sample, list[str]]:
    """Cut the boxes of a sample to its image and drop those of which nothing remains.

    Returns:
        The sample, and one line each on what was cut and what was dropped.
    """
    boxes, remains = clip(sample.boxes, width, height)
    # Less than that is the rounding of a label file, and nothing to tell of.
    cut = remains & (np.abs(boxes - sample.boxes) > 0.01).any(axis=1)
    empty = (sample.boxes[:, 2] <= sample.boxes[:, 0]) | (sample.boxes[:, 3] <= sample.boxes[:, 1])
    whole = f"of {len(boxes)} boxes, as the image measures {width}×{height} pixels"
    faults = [
        f"{sample.name}: {what} {number} {of}"
        for what, number, of in (
            ("cut", cut.sum(), whole),
            ("dropped", (~remains & ~empty).sum(), whole),
            ("dropped", empty.sum(), f"of {len(boxes)} boxes, without width or height"),
        )
        if number
    ]
    kept = replace(sample, boxes=boxes[remains], labels=sample.labels[remains], crowd=sample.crowd[remains])
    return kept, faults


def numbers(fields: Sequence[str]) -> list[float]:
    """Return the numbers that words of a label file stand for.

    Raises:
        ValueError: if one is no number, or none a box could have.
    """
    values = [float(field) for field in fields]
    if not all(map(math.isfinite, values)):
        raise ValueError(f"expected finite numbers but got {' '.join(fields)!r}")
    return values


def relative_name(name: str) -> Path:
    """Return the name of a sample as the path of a file below some folder.

    Raises:
        ValueError: if it would lie outside the folder; the names of a COCO JSON may be anything.
    """
    if not name or PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
        raise ValueError(
            f"Expected argument `dataset` to have names of files below a folder but got {name!r}."
        )
    return Path(name)


def stems(names: Sequence[str]) -> list[str]:
    """Return the names of images without their endings, but with them where they alone tell two images apart."""
    short = [
        name[: -len(end)] if (end := Path(name).suffix).lower() in IMAGE_SUFFIXES else name for name in names
    ]
    count = Counter(map(str.casefold, short))
    return [name if count[stem.casefold()] > 1 else stem for name, stem in zip(names, short, strict=True)]


Target = dict[str, Tensor]
"""``boxes``, (N, 4) `tv_tensors.BoundingBoxes`, x1 y1 x2 y2; ``labels``, (N,) int64; ``iscrowd``, (N,) bool."""


@dataclass(frozen=True)
class Dataset(data.Dataset[tuple[tv_tensors.Image, Target]]):
    """Labelled images and the names of their classes; torch's `DataLoader` takes it too.

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
        note: what a reader of a result on this set has to know.
        faults: what could not be read or had to be mended, one line each.
        left_out: how many images are missing from `samples` for that.
    """

    samples: tuple[Sample, ...]
    classes: tuple[str, ...] = EXDARK_CLASSES
    note: str = ""
    faults: tuple[str, ...] = ()
    left_out: int = 0

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[tv_tensors.Image, Target]:
        """Load an image, (3, H, W) uint8 RGB, and its boxes as torchvision's detectors and transforms take them.

        Raises:
            IndexError: if there is no such image.
            OSError, ValueError: if it cannot be read.
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
        """Return the set with other attributes; what a subclass reads for itself becomes a plain set."""
        return Dataset(**{field.name: getattr(self, field.name) for field in fields(self)} | changes)
