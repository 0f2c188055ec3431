import pytest

from detection import COCO_CLASSES, EXDARK_CLASSES
from detection.data.classes import class_map, coco_name


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
