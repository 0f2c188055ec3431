from pathlib import Path

import pytest

from detection import COCO_CLASSES, EXDARK_CLASSES
from detection.data.classes import class_map, coco_name, read_classes, without_use


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

    @pytest.mark.parametrize(
        ("spelt", "coco"),
        [
            ("tvmonitor", "tv"),
            ("diningtable", "dining table"),
            ("aeroplane", "airplane"),
            ("pottedplant", "potted plant"),
            ("sofa", "couch"),
            ("pedestrian", "person"),
            ("motor", "motorcycle"),
            ("bike", "bicycle"),
            ("Traffic-Light", "traffic light"),
            ("traffic_lights", "traffic light"),
            ("CARS", "car"),
            ("buses", "bus"),
            ("bus", "bus"),
            ("Skis", "skis"),
        ],
    )
    def test_spellings(self, spelt: str, coco: str) -> None:
        assert coco_name(spelt) == coco
        assert class_map([spelt], COCO_CLASSES).tolist() == [COCO_CLASSES.index(coco)]

    def test_names_of_ones_own(self) -> None:
        assert class_map(["Faces", "helmet"], ["face", "no-helmet", "Helmet"]).tolist() == [0, 2]
        # Whoever asks for both gets both, though they are one to COCO.
        assert class_map(["rider", "pedestrian", "person"], ["pedestrian", "rider"]).tolist() == [1, 0, 0]

    def test_what_is_not_used_is_told(self) -> None:
        line = without_use(
            ["car", "face", "boat"], ["Cars", "traffic sign"], {"yolo": ["car", "boat", "dog"]}
        )
        assert line == (
            "Classes asked for: car, face, boat; the set has also traffic sign, not used, and lacks face, boat; "
            "yolo has also dog, not used, and lacks face; nobody has face."
        )
        assert without_use(["car"], ["car"], {"": ["car"]}) == (
            "Classes asked for: car; the set has no others; the detector has no others."
        )

    def test_read_classes(self, tmp_path: Path) -> None:
        assert read_classes("exdark") == EXDARK_CLASSES
        assert read_classes("coco") == COCO_CLASSES
        assert read_classes("face, person") == ("face", "person")
        (tmp_path / "names.txt").write_text("face\nperson\n", encoding="utf-16")
        assert read_classes(str(tmp_path / "names.txt")) == ("face", "person")
        for wrong in ("", "car,Cars-,car"):
            with pytest.raises(ValueError, match="`classes` to name classes"):
                read_classes(wrong)
