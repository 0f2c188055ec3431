"""A labelled set of images, and its darkened copy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from detection.boxes import EXDARK_CLASSES
from glare.data.degrade import degrade, generator_for, sample_cast, sample_exposure

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


@dataclass(frozen=True)
class Sample:
    """One labelled image; nothing is decoded before `load` is called.

    Attributes:
        name: unique within its set at one light; also the key of the simulated noise.
        load: returns the (H, W, 3) uint8 RGB image; raises OSError or ValueError where it cannot.
        boxes: (N, 4) float, x1 y1 x2 y2 in pixels of the stored image.
        labels: (N,) int, numbers in the set's `classes`.
        crowd: (N,) bool; a crowd's box is neither to be found nor a mistake when found (COCO's ``iscrowd``).
        light: the name of the light the image was taken in.
        place: where it was taken, ``indoor`` or ``outdoor``; empty where that is not known.
        category: the class of the image as a whole, where the set has such; empty otherwise.
        reference: returns the same scene in normal light, where there is such an image.
    """

    name: str
    load: Callable[[], Pixels]
    boxes: NDArray[np.float64]
    labels: NDArray[np.int64]
    crowd: NDArray[np.bool_]
    light: str = "as stored"
    place: str = ""
    category: str = ""
    reference: Callable[[], Pixels] | None = None


@dataclass(frozen=True)
class Dataset:
    """Labelled images and the names of their classes.

    Attributes:
        samples: the images.
        classes: the names that the labels number.
        note: what a reader of a result on this set has to know.
        faults: what could not be read, one line each.
    """

    samples: tuple[Sample, ...]
    classes: tuple[str, ...] = EXDARK_CLASSES
    note: str = ""
    faults: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.samples)


def darken(dataset: Dataset, *levels: str, seed: int = 0) -> Dataset:
    """Return the set as it would look in little light, with the original as the clean reference.

    The images are darkened when they are loaded. The light and the noise of an image depend on
    ``(seed, name, level)`` alone: whoever loads it gets the same pixels. All levels of one photograph follow
    each other.

    Args:
        dataset: a set in normal light.
        levels: one or more of `glare.data.degrade.LEVELS`: mild, dark, extreme.
        seed: another seed is another night.

    Raises:
        ValueError: if a level is unknown or none is given.
    """
    if not levels:
        raise ValueError("Expected argument `levels` to name at least one light level but got none.")
    for level in levels:
        sample_exposure(level)  # raises now what would otherwise be raised at the first image
    samples = [
        replace(
            sample,
            load=partial(_darkened, sample.load, sample.name, level, seed),
            light=level,
            reference=sample.load,
        )
        for sample in dataset.samples
        for level in levels
    ]
    return replace(dataset, samples=tuple(samples))


def _darkened(load: Callable[[], Pixels], name: str, level: str, seed: int) -> Pixels:
    generator = generator_for(seed, name, level)
    clean = torch.tensor(load()).permute(2, 0, 1).float() / 255
    dark = degrade(
        clean,
        exposure=sample_exposure(level, generator),
        cast=sample_cast(generator),
        generator=generator,
    )
    pixels: Pixels = (dark * 255).round().to(torch.uint8).permute(1, 2, 0).contiguous().numpy()
    return pixels
