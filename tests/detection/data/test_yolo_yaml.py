from pathlib import Path

import pytest
from PIL import Image

import detection.detectors.ultralytics  # noqa: F401 - keeps ultralytics, where a test imports it, off the network
from detection import (
    EXDARK_CLASSES,
    read_dataset,
    read_yolo,
)


class TestNames:
    """What the class numbers mean, wherever that is written."""

    @pytest.mark.parametrize(
        ("file", "text"),
        [
            ("exdark.yaml", "names: [Cup, Dog]"),
            ("config.yaml", "nc: 2\nnames:\n  '0': Cup\n  '1': Dog\n"),
            ("below/set.yml", "names: {0: Cup, 1: Dog}"),
            ("classes.txt", "Cup\nDog\n\n"),
            ("labels/classes.txt", "Cup\nDog"),
            ("labels/val/classes.txt", "Cup\nDog"),
            ("obj.names", "\ufeffCup\r\nDog\r\n"),
            ("images/_darknet.labels", "Cup\nDog\n"),
        ],
    )
    def test_whatever_the_file_is_called(self, yolo: Path, file: str, text: str) -> None:
        (yolo / "labels/val/a.txt").write_text("0 0.5 0.5 0.5 0.2\n1 0.1 0.1 0.1 0.1\n")
        (yolo / file).parent.mkdir(exist_ok=True)
        (yolo / file).write_text(text, encoding="utf-8")
        if file.startswith("below"):
            (yolo / "images").rename(yolo / "below" / "images")
            (yolo / "labels").rename(yolo / "below" / "labels")
        data = read_dataset(yolo)
        assert [EXDARK_CLASSES[label] for label in data.samples[0].labels] == ["Cup", "Dog"]
        assert data.names == ("Cup", "Dog")
        assert data.note == ""

    def test_no_file_is_told(self, yolo: Path) -> None:
        assert read_yolo(yolo).note == "its class numbers taken for COCO's, as no file says what they mean"

    def test_settings_of_a_training_are_no_description(self, yolo: Path) -> None:
        (yolo / "hyp.yaml").write_text("lr0: 0.01")
        assert "taken for COCO's" in read_yolo(yolo).note

    def test_files_that_disagree_stop_the_run(self, yolo: Path) -> None:
        names = ", ".join(["Cup"] * 46)
        (yolo / "data.yaml").write_text(f"names: [{names}]")
        (yolo / "classes.txt").write_text("person\n" * 46)
        with pytest.raises(ValueError, match=r"data\.yaml says 46: Cup.*classes\.txt says 46: person"):
            read_dataset(yolo)
        data = read_dataset(yolo / "data.yaml")  # who names the file has decided
        assert EXDARK_CLASSES[data.samples[0].labels[0]] == "Cup"
        assert "the first counts" in data.faults[0]

    @pytest.mark.parametrize("described", ["val: images/val", "nc: 46"])
    def test_names_beside_a_description_without_any(self, yolo: Path, described: str) -> None:
        (yolo / "data.yaml").write_text(described)
        (yolo / "classes.txt").write_text("Cup\n" * 46)
        data = read_dataset(yolo)
        assert [EXDARK_CLASSES[label] for label in data.samples[0].labels] == ["Cup", "Cup"]

    def test_two_descriptions(self, yolo: Path) -> None:
        names = ", ".join(["Cup"] * 46)
        for name in ("a.yaml", "b.yaml"):
            (yolo / name).write_text(f"val: images/val\nnames: [{names}]")
        assert len(read_dataset(yolo)) == 2
        (yolo / "b.yaml").write_text(f"val: images\nnames: [{names}]")
        with pytest.raises(ValueError, match=r"a\.yaml and b\.yaml differ in where the images are"):
            read_dataset(yolo)

    def test_numbers_beyond_the_guess_stop_the_run(self, yolo: Path) -> None:
        (yolo / "labels/val/empty.txt").write_text("91 0.5 0.5 0.1 0.1")
        with pytest.raises(ValueError, match=r"not COCO's eighty: .*empty\.txt has 91"):
            read_dataset(yolo)

    def test_only_a_number_of_classes(self, yolo: Path) -> None:
        (yolo / "data.yaml").write_text("nc: 46")
        data = read_yolo(yolo, classes=["class_0", "class_45"])  # as ultralytics calls them
        assert data.samples[0].labels.tolist() == [0, 1]


class TestSplits:
    """What ultralytics' ``data.yaml`` names."""

    def image(self, file: Path) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (200, 100)).save(file)

    def label(self, file: Path) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("0 0.5 0.5 0.5 0.2\n")

    @pytest.fixture
    def usual(self, tmp_path: Path) -> Path:
        for name in ("images/train/a.png", "images/train/b.png", "images/val/c.png"):
            self.image(tmp_path / name)
        for name in ("labels/train/a.txt", "labels/val/c.txt"):
            self.label(tmp_path / name)
        (tmp_path / "data.yaml").write_text(
            "path: .\ntrain: images/train\nval: images/val\ntest:\nnames: [dog]\n"
        )
        return tmp_path

    def test_lists_from_another_machine(self, usual: Path) -> None:
        (usual / "data.yaml").write_text("train: train.txt\nval: val.txt\nnames: [dog]\n")
        (usual / "val.txt").write_text("D:/them/set/images/val/c.PNG\n")
        (usual / "train.txt").write_text("D:/them/set/images/other/d.png\n")
        assert [sample.name for sample in read_yolo(usual).samples] == ["c.png"]
        with pytest.raises(FileNotFoundError, match=r"that .*train\.txt lists, but .*d\.png is not there"):
            read_yolo(usual, "train")

    def test_usual_layout(self, usual: Path) -> None:
        for path in (usual, usual / "data.yaml"):
            train, val = (read_dataset(path, split=split) for split in ("train", None))
            assert [sample.name for sample in train.samples] == ["a.png", "b.png"]
            assert [len(sample.boxes) for sample in train.samples] == [1, 0]
            assert [sample.name for sample in val.samples] == ["c.png"]
            assert EXDARK_CLASSES[val.samples[0].labels[0]] == "Dog"
            assert (train.note, val.note) == ("train of data.yaml", "val of data.yaml")
            told = "1 of 2 images have no label file and are taken to show nothing"
            assert (train.faults, val.faults) == ((told,), ())

    def test_roboflow(self, tmp_path: Path) -> None:
        for part in ("train", "valid"):
            self.image(tmp_path / part / "images" / f"{part}.png")
            self.label(tmp_path / part / "labels" / f"{part}.txt")
        text = "train: ../train/images\nval: ../valid/images\ntest: ../test/images\nnames: {0: dog}\n"
        (tmp_path / "data.yaml").write_text(text)
        assert [sample.name for sample in read_dataset(tmp_path).samples] == ["valid.png"]
        assert [len(sample.boxes) for sample in read_yolo(tmp_path, "train").samples] == [1]
        with pytest.raises(FileNotFoundError, match=r"\.\./test/images, test of .*data\.yaml"):
            read_yolo(tmp_path, "test")

    def test_several_folders_and_a_place_that_is_gone(self, usual: Path) -> None:
        text = "path: /nowhere\ntrain: [images/train, images/val]\nval: images/gone\nnames: [dog]\n"
        (usual / "data.yaml").write_text(text)
        everything = ["train/a.png", "train/b.png", "val/c.png"]
        assert [sample.name for sample in read_yolo(usual, "train").samples] == everything
        with pytest.raises(FileNotFoundError, match=r"images/gone, val of .*data\.yaml"):
            read_yolo(usual)
        (usual / "data.yaml").write_text("names: [dog]\n")
        assert [sample.name for sample in read_yolo(usual).samples] == everything
        assert read_yolo(usual).note == "train and val of images/ together"

    @pytest.mark.parametrize(
        ("named", "expected"),
        [
            ("val.txt", ["c.png"]),
            ("[val.txt]", ["c.png"]),
            ("images/v*/*.png", ["c.png"]),
            ("images\\\\val", ["c.png"]),
            ("images/train/b.png", ["b.png"]),
            ("[images/val, some.txt]", ["train/a.png", "val/c.png"]),
        ],
    )
    def test_what_a_split_may_be(self, usual: Path, named: str, expected: list[str]) -> None:
        (usual / "val.txt").write_text("./images/val/c.png\n")
        (usual / "some.txt").write_text("images\\train\\a.png\r\n", encoding="utf-16")
        quoted = f'"{named}"' if "\\" in named else named
        (usual / "data.yaml").write_text(f"val: {quoted}\nnames: [dog]\n")
        assert sorted(sample.name for sample in read_dataset(usual).samples) == expected

    def test_a_list_with_an_image_that_is_gone(self, usual: Path) -> None:
        (usual / "val.txt").write_text("images/val/c.png\nimages/val/gone.png\n")
        (usual / "data.yaml").write_text("val: val.txt\nnames: [dog]\n")
        data = read_dataset(usual)
        assert [sample.name for sample in data.samples] == ["c.png"]
        assert data.left_out == 1
        assert data.faults[0].startswith("gone.png: ")

    def test_validation_is_val(self, usual: Path) -> None:
        (usual / "data.yaml").write_text("train: images/train\nvalidation: images/val\nnames: [dog]\n")
        assert [sample.name for sample in read_dataset(usual).samples] == ["c.png"]

    def test_errors(self, usual: Path) -> None:
        with pytest.raises(
            ValueError, match=r"`split` to be one that .* names \(train, val\) but got 'test'"
        ):
            read_yolo(usual, "test")
        (usual / "data.yaml").write_text("names: [dog")
        with pytest.raises(ValueError, match=r"YAML in .*data\.yaml"):
            read_yolo(usual)
        (usual / "data.yaml").unlink()
        with pytest.raises(ValueError, match=r"names \(none\) but got 'val'"):
            read_yolo(usual, "val")
