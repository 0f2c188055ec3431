import json
from pathlib import Path

import pytest
from PIL import Image

from detection import EXDARK_CLASSES, read_dataset, sample_set, write_coco, write_darkened, write_yolo

# What it does with ExDark, DARK FACE, YOLO's layout and a COCO JSON stands in the tests of those.


def test_a_folder_with_a_json(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    data = sample_set()
    only = type(data)(data.samples[3:4], data.classes)
    write_darkened(only, tmp_path / "dark", "dark")
    assert [sample.light for sample in read_dataset(tmp_path / "dark").samples] == ["dark"]
    write_yolo(only, tmp_path / "yolo")
    assert read_dataset(tmp_path / "yolo").samples[0].name == "chelsea.png"
    path = only.samples[0].path
    assert path is not None
    (tmp_path / "lists").mkdir()
    write_coco(only, tmp_path / "lists" / "annotations.json", path.parent)
    assert read_dataset(tmp_path / "lists", images=path.parent).samples[0].path == path


def test_errors(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="there is no such file or folder"):
        read_dataset(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="Expected images"):
        read_dataset(tmp_path)
    (tmp_path / "annotations.json").write_text("{}")
    with pytest.raises(ValueError, match="`split` with ExDark or YOLO's layout alone"):
        read_dataset(tmp_path, split="val")


def test_trainval_is_no_val(tmp_path: Path) -> None:
    files = write_yolo(sample_set(), tmp_path / "images")
    for name in ("instances_trainval2017.json", "instances_test2017.json"):
        write_coco(files, tmp_path / "annotations" / name, tmp_path)
    with pytest.raises(
        ValueError, match=r"got instances_test2017\.json, instances_trainval2017\.json: name one"
    ):
        read_dataset(tmp_path)
    write_coco(files, tmp_path / "annotations" / "instances_val2017.json", tmp_path)
    assert len(read_dataset(tmp_path, images=tmp_path)) == len(files)
    assert len(read_dataset(tmp_path, images=tmp_path, split="trainval")) == len(files)


class TestExports:
    """The folders that other tools export, with the same box in each."""

    BOX = ((20.0, 30.0, 60.0, 50.0),)

    def image(self, file: Path) -> Path:
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (200, 100)).save(file)
        return file

    def text(self, file: Path, text: str) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def coco(self, file: Path, name: str) -> None:
        content = {
            "images": [{"id": 1, "file_name": name, "width": 200, "height": 100}],
            "categories": [{"id": 1, "name": "dog"}],
            "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [20, 30, 40, 20]}],
        }
        self.text(file, json.dumps(content))

    def voc(self, file: Path, name: str) -> None:
        self.text(
            file,
            f"<annotation><filename>{name}</filename><size><width>200</width><height>100</height></size><object>"
            "<name>dog</name><difficult>0</difficult><bndbox><xmin>20</xmin><ymin>30</ymin><xmax>60</xmax>"
            "<ymax>50</ymax></bndbox></object></annotation>",
        )

    def check(self, root: Path, *names: str, split: str | None = None) -> None:
        data = read_dataset(root, split=split)
        assert [sample.name for sample in data.samples] == list(names)
        for sample in data.samples:
            assert sample.boxes.tolist() == [pytest.approx(list(box)) for box in self.BOX]
            assert EXDARK_CLASSES[sample.labels[0]] == "Dog"
        assert data.faults == ()

    def test_roboflow(self, tmp_path: Path) -> None:
        for split in ("train", "valid", "test"):
            self.image(tmp_path / "coco" / split / f"{split}.jpg")
            self.coco(tmp_path / "coco" / split / "_annotations.coco.json", f"{split}.jpg")
            self.image(tmp_path / "voc" / split / f"{split}.jpg")
            self.voc(tmp_path / "voc" / split / f"{split}.xml", f"{split}.jpg")
        for kind in ("coco", "voc"):
            self.check(tmp_path / kind, "valid.jpg")
            self.check(tmp_path / kind, "train.jpg", split="train")
        self.image(tmp_path / "darknet" / "a.jpg")
        self.text(tmp_path / "darknet" / "a.txt", "0 0.2 0.4 0.2 0.2\n")
        self.text(tmp_path / "darknet" / "_darknet.labels", "dog\n")
        self.check(tmp_path / "darknet", "a.jpg")

    def test_cvat(self, tmp_path: Path) -> None:
        self.image(tmp_path / "coco" / "images" / "default" / "a.png")
        self.coco(tmp_path / "coco" / "annotations" / "instances_default.json", "default/a.png")
        self.check(tmp_path / "coco", "default/a.png")
        self.image(tmp_path / "voc" / "JPEGImages" / "a.png")
        self.voc(tmp_path / "voc" / "Annotations" / "a.xml", "a.png")
        self.text(tmp_path / "voc" / "ImageSets" / "Main" / "train.txt", "a\n")
        self.check(tmp_path / "voc", "JPEGImages/a.png")
        self.check(tmp_path / "voc", "JPEGImages/a.png", split="train")
        yolo = tmp_path / "yolo"
        self.image(yolo / "obj_train_data" / "a.png")
        self.text(yolo / "obj_train_data" / "a.txt", "0 0.2 0.4 0.2 0.2\n")
        self.text(yolo / "train.txt", "data/obj_train_data/a.png\n")
        self.text(yolo / "obj.names", "dog\n")
        self.text(
            yolo / "obj.data",
            "classes = 1\ntrain = data/train.txt\nnames = data/obj.names\nbackup = backup/\n",
        )
        self.check(yolo, "a.png", split="train")

    def test_fiftyone(self, tmp_path: Path) -> None:
        self.image(tmp_path / "coco" / "data" / "a.jpg")
        self.coco(tmp_path / "coco" / "labels.json", "a.jpg")
        self.check(tmp_path / "coco", "a.jpg")
        self.image(tmp_path / "voc" / "data" / "a.jpg")
        self.voc(tmp_path / "voc" / "labels" / "a.xml", "a.jpg")
        self.check(tmp_path / "voc", "data/a.jpg")
        self.image(tmp_path / "yolo4" / "data" / "a.jpg")
        self.text(tmp_path / "yolo4" / "data" / "a.txt", "0 0.2 0.4 0.2 0.2\n")
        self.text(tmp_path / "yolo4" / "obj.names", "dog\n")
        self.check(tmp_path / "yolo4", "a.jpg")
        self.image(tmp_path / "yolo5" / "images" / "val" / "a.jpg")
        self.text(tmp_path / "yolo5" / "labels" / "val" / "a.txt", "0 0.2 0.4 0.2 0.2\n")
        self.text(tmp_path / "yolo5" / "dataset.yaml", "path: .\nval: ./images/val/\nnames:\n  0: dog\n")
        self.check(tmp_path / "yolo5", "a.jpg")

    def test_cocos_own_folders(self, tmp_path: Path) -> None:
        for year in ("train2017", "val2017"):
            self.image(tmp_path / year / "a.jpg")
            self.coco(tmp_path / "annotations" / f"instances_{year}.json", "a.jpg")
            self.text(tmp_path / "annotations" / f"captions_{year}.json", "{}")
        self.check(tmp_path, "a.jpg")
        assert read_dataset(tmp_path, split="train").samples[0].path is not None

    def test_an_unknown_layout_is_described(self, tmp_path: Path) -> None:
        self.image(tmp_path / "pictures" / "a.jpg")
        self.text(tmp_path / "labels.csv", "a.jpg,dog\n")
        with pytest.raises(FileNotFoundError) as error:
            read_dataset(tmp_path)
        assert "but found pictures/, 1 file .csv. The layouts: ExDark (imageclasslist.txt" in str(error.value)
        assert "PASCAL VOC" in str(error.value)
