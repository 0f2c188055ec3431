"""Average precision of persons on photographs of which only faces are labelled, such as DARK FACE's real nights.

A person box counts when the centre of a labelled face lies in its upper half; each face is for one box, the surest.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from detection.data.core import Detections, Sample
from detection.metrics.average_precision import SIZES, Matches, Ranked

RULE = "face-in-person"
PERSON = "person"
_BOXES = 100
"""How many of an image's boxes count, the surest, as with COCO."""


def match_faces(truth: Sequence[Sample], found: Sequence[Detections]) -> Matches:
    """Match person boxes to faces; the IoU plays no part, so there is one threshold, and mAP50 is the AP.

    Args:
        truth: images whose boxes are faces.
        found: the persons that were found in each of them.

    Raises:
        ValueError: if the two are not of the same length.
    """
    if len(truth) != len(found):
        raise ValueError(f"Expected {len(truth)} detections, one per image, but got {len(found)}.")
    scores: list[NDArray[np.float64]] = []
    hits: list[NDArray[np.bool_]] = []
    images: list[NDArray[np.int64]] = []
    for number, (sample, persons) in enumerate(zip(truth, found, strict=True)):
        order = np.argsort(-persons.scores, kind="stable")[:_BOXES]
        scores.append(persons.scores[order])
        hits.append(_hits(sample.boxes, persons.boxes[order]))
        images.append(np.full(len(order), number))
    order = np.argsort(-np.concatenate(scores), kind="stable")
    true = np.concatenate(hits)[order][None]
    positives = np.array([len(sample.boxes) for sample in truth], dtype=np.int64)
    ranked = Ranked(np.concatenate(images)[order], true, np.zeros_like(true), positives)
    return Matches(((ranked,),) * len(SIZES), (ranked,))


def _hits(faces: NDArray[np.float64], persons: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which of the boxes, the surest first, have a face of their own; of several the one nearest to the middle."""
    x, y = (faces[:, :2] + faces[:, 2:]).T / 2
    free = np.ones(len(faces), dtype=bool)
    hits = np.zeros(len(persons), dtype=bool)
    for number, (x1, y1, x2, y2) in enumerate(persons):
        inside = free & (x >= x1) & (x <= x2) & (y >= y1) & (y <= (y1 + y2) / 2)
        if inside.any():
            free[np.where(inside, np.abs(x - (x1 + x2) / 2), np.inf).argmin()] = False
            hits[number] = True
    return hits
