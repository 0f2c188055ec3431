"""Photographs of a bright or a dim square, what finds it, and what brightens it."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from detection import Dataset, Detections, Sample
from detection.data.core import Pixels


def sample(
    boxes: list[list[float]], labels: list[int], crowd: list[bool] | None = None, name: str = "x"
) -> Sample:
    return Sample(
        name,
        lambda: np.zeros((100, 100, 3), np.uint8),
        np.array(boxes, dtype=np.float64).reshape(-1, 4),
        np.array(labels, dtype=np.int64),
        np.array(crowd or [False] * len(labels)),
    )


def found(boxes: list[list[float]], labels: list[int], scores: list[float]) -> Detections:
    return Detections(
        np.array(boxes, dtype=np.float64).reshape(-1, 4), np.array(scores), np.array(labels, dtype=np.int64)
    )


BOX = [0.0, 0.0, 50.0, 50.0]


class Bright:
    """A detector that finds the bounding box of what is brighter than half."""

    names = ("sheep", "person")

    def __call__(self, images: Sequence[Pixels]) -> list[Detections]:
        return [self.detect(image) for image in images]

    def detect(self, image: Pixels) -> Detections:
        y, x = np.nonzero(image[..., 0] > 127)
        if not len(x):
            return found([], [], [])
        box = [float(x.min()), float(y.min()), float(x.max() + 1), float(y.max() + 1)]
        return found([box, box], [0, 1], [0.9, 0.9])


def square(level: int) -> Pixels:
    image = np.zeros((100, 100, 3), np.uint8)
    image[20:60, 20:60] = level
    return image


def squares(*lights: str, places: Sequence[str] = ("",), count: int = 6) -> Dataset:
    """Photographs of a square, every other one too dim for `Bright`; all lights of one follow each other."""
    people = np.array([10])
    boxes, crowd = np.array([[20.0, 20, 60, 60]]), np.array([False])
    return Dataset(
        tuple(
            Sample(
                f"{i}.png",
                partial(square, 200 + i if i % 2 else 70 + i),
                boxes,
                people,
                crowd,
                light,
                place=places[i % len(places)],
                reference=partial(square, 220),
            )
            for i in range(count)
            for light in lights or ("day",)
        )
    )


def lift(image: Pixels) -> Pixels:
    """Bring every square above the half, each to its own brightness."""
    return np.where(image > 0, image // 2 + 96, 0).astype(np.uint8)


class Counted:
    """A callable that counts its calls on whole images, and has an identity."""

    def __init__(self, call: Callable[[Any], Any], identity: str) -> None:
        self.call, self.identity, self.calls = call, identity, 0

    def __call__(self, given: Any) -> Any:
        self.calls += np.shape(given)[:1] == (100,)
        return self.call(given)
