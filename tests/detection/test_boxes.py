import numpy as np
import pytest

from detection import COCO_CLASSES, EXDARK_CLASSES, Detections
from detection.boxes import class_map, coco_name


class TestClasses:
    def test_counts(self) -> None:
        assert len(EXDARK_CLASSES) == 12
        assert len(set(COCO_CLASSES)) == 80

    @pytest.mark.parametrize(
        ("exdark", "coco"),
        [("Motorbike", "motorcycle"), ("People", "person"), ("Table", "dining table"), ("Cup", "cup")],
    )
    def test_coco_name(self, exdark: str, coco: str) -> None:
        assert coco_name(exdark) == coco
        assert coco_name(coco) == coco

    def test_every_exdark_class_is_in_coco(self) -> None:
        numbers = class_map(EXDARK_CLASSES, COCO_CLASSES)
        # Counted in COCO's own list: bicycle 1, boat 8, bottle 39, bus 5, car 2, cat 15, chair 56, ...
        assert numbers.tolist() == [1, 8, 39, 5, 2, 15, 56, 41, 16, 3, 0, 60]

    def test_unknown_class_maps_to_nothing(self) -> None:
        assert class_map(["person", "zebra"], EXDARK_CLASSES).tolist() == [10, -1]


class TestDetections:
    def test_relabel_drops_what_the_target_does_not_know(self) -> None:
        found = Detections(
            np.array([[0.0, 0, 1, 1], [0, 0, 2, 2]]), np.array([0.9, 0.8]), np.array([22, 0], dtype=np.int64)
        )
        kept = found.relabel(class_map(COCO_CLASSES, EXDARK_CLASSES))  # a zebra and a person
        assert kept.boxes.tolist() == [[0, 0, 2, 2]]
        assert kept.scores.tolist() == [0.8]
        assert kept.labels.tolist() == [EXDARK_CLASSES.index("People")]

    def test_shapes_are_checked(self) -> None:
        with pytest.raises(ValueError, match=r"\(N, 4\), \(N,\) and \(N,\)"):
            Detections(np.zeros((2, 4)), np.zeros(1), np.zeros(2, dtype=np.int64))
