import numpy as np
import pytest

from detection.metrics.face_in_person import match_faces
from tests.detection.squares import found, sample

PERSON = [0.0, 0.0, 50.0, 100.0]


def ap(truth: list[list[float]], boxes: list[list[float]], scores: list[float]) -> float:
    matches = match_faces([sample(truth, [0] * len(truth))], [found(boxes, [0] * len(boxes), scores)])
    return matches.summary(["person"])["mAP50"]


def test_a_face_in_the_upper_half() -> None:
    assert ap([[20, 10, 30, 20]], [PERSON], [0.9]) == pytest.approx(1)
    assert ap([[20, 45, 30, 55]], [PERSON], [0.9]) == pytest.approx(1)  # its centre is half way down
    assert ap([[20, 46, 30, 56]], [PERSON], [0.9]) == 0
    assert ap([[46, 10, 56, 20]], [PERSON], [0.9]) == 0  # and beside the box


def test_each_face_is_for_one_box() -> None:
    face = [20.0, 10, 30, 20]
    assert ap([face], [PERSON, PERSON], [0.9, 0.8]) == pytest.approx(1)  # the second comes after all is found
    # Both faces are in the sure box, one of them in the other: it takes the one nearest to its middle.
    other = [0.0, 12, 4, 16]
    assert ap([face, other], [PERSON, [0, 0, 10, 60]], [0.9, 0.8]) == pytest.approx(1)
    # A false alarm before the only hit: a precision of a half at every recall.
    assert ap([face], [[60, 0, 90, 90], PERSON], [0.9, 0.8]) == pytest.approx(0.5)
    # One of two faces is found: 51 of the 101 recalls are reached.
    assert ap([face, [70, 10, 80, 20]], [PERSON], [0.9]) == pytest.approx(51 / 101)


def test_scores_count_over_all_images() -> None:
    truth = [sample([[20, 10, 30, 20]], [0]), sample([], []), sample([[20, 10, 30, 20]], [0])]
    seen = [found([PERSON], [0], [0.5]), found([PERSON], [0], [0.7]), found([PERSON], [0], [0.9])]
    matches = match_faces(truth, seen)
    # Hit, false alarm, hit: 51 recalls at a precision of 1, 50 at two thirds.
    assert matches.summary(["person"])["mAP50"] == pytest.approx((51 + 50 * 2 / 3) / 101)
    np.testing.assert_allclose(
        matches.resampled(np.array([[1, 1], [1, 0], [1, 1]]))[0], [(51 + 50 * 2 / 3) / 101, 1]
    )


def test_lengths() -> None:
    with pytest.raises(ValueError, match="Expected 1 detections, one per image, but got 0"):
        match_faces([sample([], [])], [])
