import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from detection import COCO_CLASSES, EXDARK_CLASSES, read_coco, read_dataset, read_yolo


@pytest.fixture
def coco(tmp_path: Path) -> dict[str, Any]:
    (tmp_path / "images").mkdir()
    for name in ("a.png", "b.png"):
        Image.new("RGB", (100, 50)).save(tmp_path / "images" / name)
    return {
        "images": [{"id": 7, "file_name": "a.png"}, {"id": 0, "file_name": "b.png"}],
        "categories": [{"id": 1, "name": "person"}, {"id": 24, "name": "zebra"}],
        "annotations": [
            {"id": 0, "image_id": 7, "category_id": 1, "bbox": [10, 20, 30, 5], "area": 150, "iscrowd": 0},
            {"id": 1, "image_id": 7, "category_id": 24, "bbox": [0, 0, 5, 5], "area": 25, "iscrowd": 0},
            {"id": 2, "image_id": 7, "category_id": 1, "bbox": [0, 0, 9, 9], "area": 81, "iscrowd": 1},
            {"id": 3, "image_id": 7, "category_id": 1, "bbox": [3, 3, 0, 9], "area": 0, "iscrowd": 0},
        ],
    }


def write(tmp_path: Path, content: Any) -> Path:
    file = tmp_path / "annotations.json"
    file.write_text(json.dumps(content), encoding="utf-8")
    return file


class TestCOCO:
    def test_twelve_classes_by_name(self, tmp_path: Path, coco: dict[str, Any]) -> None:
        data = read_dataset(write(tmp_path, coco))
        first, second = data.samples
        assert data.classes == EXDARK_CLASSES
        assert first.boxes.tolist() == [[10, 20, 40, 25], [0, 0, 9, 9]]  # no zebra, no box without width
        assert first.labels.tolist() == [EXDARK_CLASSES.index("People")] * 2
        assert first.crowd.tolist() == [False, True]
        assert first.load().shape == (50, 100, 3)
        assert second.boxes.shape == (0, 4)  # an image without boxes stays in the set

    def test_eighty_classes_on_request(self, tmp_path: Path, coco: dict[str, Any]) -> None:
        labels = read_coco(write(tmp_path, coco), classes=COCO_CLASSES).samples[0].labels
        assert [COCO_CLASSES[label] for label in labels] == ["person", "zebra", "person"]

    def test_errors(self, tmp_path: Path, coco: dict[str, Any]) -> None:
        with pytest.raises(FileNotFoundError, match="neither"):
            read_dataset(tmp_path / "nowhere")
        far = tmp_path / "far" / "away"
        far.mkdir(parents=True)
        with pytest.raises(FileNotFoundError, match=r"'a\.png'"):
            read_coco(write(far, coco))
        with pytest.raises(FileNotFoundError, match="`images` to be a folder"):
            read_coco(write(tmp_path, coco), tmp_path / "missing")
        with pytest.raises(ValueError, match="COCO JSON"):
            read_coco(write(tmp_path, ["no", "object"]))
        with pytest.raises(ValueError, match="COCO JSON"):
            read_coco(write(tmp_path, {key: coco[key] for key in ("images", "annotations")}))
        with pytest.raises(ValueError, match=r"Bicycle.* but got zebra"):
            read_coco(
                write(tmp_path, coco | {"annotations": [], "categories": [{"id": 24, "name": "zebra"}]})
            )
        (tmp_path / "annotations.json").write_bytes(b"\xff\xd8\xff")
        with pytest.raises(ValueError, match="COCO JSON"):
            read_coco(tmp_path / "annotations.json")


@pytest.fixture
def yolo(tmp_path: Path) -> Path:
    for folder in ("images/val", "labels/val"):
        (tmp_path / folder).mkdir(parents=True)
    for name in ("a.png", "empty.png"):
        Image.new("RGB", (200, 100)).save(tmp_path / "images/val" / name)
    (tmp_path / "labels/val/a.txt").write_text("0 0.5 0.5 0.5 0.2\n45 0.1 0.1 0.1 0.1\n", encoding="utf-8")
    return tmp_path


class TestYOLO:
    def test_coco_numbers_by_default(self, yolo: Path) -> None:
        data = read_dataset(yolo)
        assert [s.name for s in data.samples] == ["val/a.png", "val/empty.png"]
        np.testing.assert_allclose(
            data.samples[0].boxes, [[50, 40, 150, 60]]
        )  # class 45, a bowl, is left out
        assert data.samples[0].labels.tolist() == [EXDARK_CLASSES.index("People")]
        assert data.samples[1].boxes.shape == (0, 4)
        assert data.faults == ()

    def test_names_from_the_yaml(self, yolo: Path) -> None:
        (yolo / "data.yaml").write_text("names: {0: Cup, 45: Dog}", encoding="utf-8")
        with pytest.raises(ValueError, match="0 to 1"):
            read_yolo(yolo)
        names = ", ".join(["Cup"] + ["thing"] * 44 + ["Dog"])
        (yolo / "data.yaml").write_text(f"names: [{names}]", encoding="utf-8")
        labels = read_yolo(yolo).samples[0].labels
        assert [EXDARK_CLASSES[label] for label in labels] == ["Cup", "Dog"]

    def test_names_given(self, yolo: Path) -> None:
        labels = read_yolo(yolo, names=["boat"] * 46).samples[0].labels
        assert [EXDARK_CLASSES[label] for label in labels] == ["Boat", "Boat"]

    def test_faults_are_listed(self, yolo: Path) -> None:
        (yolo / "images/val/broken.png").write_bytes(b"no image")
        Image.new("RGB", (9, 9)).save(yolo / "images/val/words.png")
        (yolo / "labels/val/words.txt").write_text("person 0.1 0.1 0.1 0.1", encoding="utf-8")
        Image.new("RGB", (9, 9)).save(yolo / "images/val/short.png")
        (yolo / "labels/val/short.txt").write_text("0 0.1 0.1", encoding="utf-8")
        Image.new("RGB", (9, 9)).save(yolo / "images/val/high.png")
        (yolo / "labels/val/high.txt").write_text("80 0.1 0.1 0.1 0.1", encoding="utf-8")
        (yolo / "labels/val/orphan.txt").write_text("0 0.1 0.1 0.1 0.1", encoding="utf-8")
        data = read_yolo(yolo)
        assert [s.name for s in data.samples] == ["val/a.png", "val/empty.png"]
        assert [fault.partition(":")[0] for fault in data.faults] == [
            "labels/val/orphan.txt",
            "val/broken.png",
            "val/high.png",
            "val/short.png",
            "val/words.png",
        ]

    def test_errors(self, tmp_path: Path, yolo: Path) -> None:
        with pytest.raises(FileNotFoundError, match="images"):
            read_yolo(tmp_path / "labels")
        (yolo / "data.yaml").write_text("nc: 3", encoding="utf-8")
        with pytest.raises(ValueError, match="list `names`"):
            read_yolo(yolo)
