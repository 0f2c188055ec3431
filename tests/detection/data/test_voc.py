from pathlib import Path

import pytest
from PIL import Image

from detection import EXDARK_CLASSES, read_dataset
from detection.data.voc import read_voc


def mark(name: str, *corners: float, difficult: int = 0) -> str:
    keys = ("xmin", "ymin", "xmax", "ymax")
    box = "".join(f"<{key}>{value}</{key}>" for key, value in zip(keys, corners, strict=True))
    return f"<object><name>{name}</name><difficult>{difficult}</difficult><bndbox>{box}</bndbox></object>"


@pytest.fixture
def voc(tmp_path: Path) -> Path:
    for folder in ("Annotations", "JPEGImages"):
        (tmp_path / folder).mkdir()
    return tmp_path


def add(
    root: Path, name: str, *marks: str, size: tuple[int, int] = (200, 100), said: str = "", **saved: object
) -> None:
    Image.new("RGB", size).save(root / "JPEGImages" / f"{name}.jpg", **saved)
    text = f"<annotation><filename>{name}.jpg</filename>{said}{''.join(marks)}</annotation>"
    (root / "Annotations" / f"{name}.xml").write_text(text)


def said(width: int, height: int) -> str:
    return f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size>"


def test_boxes_classes_and_what_is_difficult(voc: Path) -> None:
    dogs = [mark("dog", 10, 20, 30.5, 40), mark("tvmonitor", 0, 0, 9, 9), mark("aeroplane", 1, 1, 5, 5)]
    add(voc, "a", *dogs, mark("motorbike", 50, 50, 90, 90, difficult=1), said=said(200, 100))
    add(voc, "b")
    data = read_voc(voc)
    assert [sample.name for sample in data.samples] == ["JPEGImages/a.jpg", "JPEGImages/b.jpg"]
    (first, second) = data.samples
    assert first.boxes.tolist() == [[10, 20, 30.5, 40], [50, 50, 90, 90]]
    assert [EXDARK_CLASSES[label] for label in first.labels] == ["Dog", "Motorbike"]
    assert first.crowd.tolist() == [False, True]
    assert second.boxes.shape == (0, 4)
    assert data.names == ("dog", "tvmonitor", "aeroplane", "motorbike")
    planes = read_voc(voc, classes=["airplane", "tv"]).samples[0]
    assert planes.labels.tolist() == [1, 0]


def test_size_and_orientation(voc: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90° to view
    add(voc, "a", mark("dog", 10, 20, 30, 40), said=said(100, 200), exif=exif)
    add(voc, "b", mark("dog", 10, 20, 30, 40), said=said(400, 200))
    add(voc, "c", mark("dog", 10, 20, 30, 40), said=said(400, 400))
    data = read_voc(voc)
    turned, half = data.samples
    assert turned.load().shape == (200, 100, 3)
    assert turned.boxes.tolist() == [[10, 20, 30, 40]]
    assert half.boxes.tolist() == [[5, 10, 15, 20]]
    assert data.left_out == 1
    assert any(
        "c.jpg: its boxes are of 400×400 pixels but it measures 200×100" in fault for fault in data.faults
    )
    assert any("b.jpg: it measures 200×100 where its boxes are of 400×200" in fault for fault in data.faults)


def test_splits(voc: Path) -> None:
    for name in "abc":
        add(voc, name, mark("dog", 10, 20, 30, 40))
    (voc / "ImageSets" / "Main").mkdir(parents=True)
    (voc / "ImageSets" / "Main" / "val.txt").write_text("b  1\nc -1\n")
    data = read_voc(voc, "val")
    assert [sample.name for sample in data.samples] == ["JPEGImages/b.jpg", "JPEGImages/c.jpg"]
    with pytest.raises(FileNotFoundError, match="the split 'train' of"):
        read_voc(voc, "train")


def test_images_of_one_name(voc: Path) -> None:
    for split, corner in (("train", 10), ("val", 20)):
        for folder in ("Annotations", "JPEGImages"):
            (voc / folder / split).mkdir()
        add(voc, f"{split}/1", mark("dog", corner, corner, 50, 50), size=(100 + corner, 100))
        file = voc / "Annotations" / split / "1.xml"
        file.write_text(file.read_text().replace(f"{split}/1.jpg", "1.jpg"))
    data = read_voc(voc)
    assert [(s.name, s.boxes.tolist()) for s in data.samples] == [
        ("JPEGImages/train/1.jpg", [[10, 10, 50, 50]]),
        ("JPEGImages/val/1.jpg", [[20, 20, 50, 50]]),
    ]
    (voc / "Annotations" / "val" / "1.xml").rename(voc / "Annotations" / "1.xml")
    data = read_voc(voc)
    assert len(data) == 1
    assert "1.xml: expected one image 1.jpg but got train/1.jpg, val/1.jpg" in data.faults[0]


def test_faults(voc: Path) -> None:
    add(voc, "a", mark("dog", 10, 20, 30, 40))
    (voc / "Annotations" / "broken.xml").write_text("<annotation>")
    (voc / "Annotations" / "gone.xml").write_text("<annotation><filename>gone.jpg</filename></annotation>")
    (voc / "Annotations" / "words.xml").write_text(
        f"<annotation><filename>a.jpg</filename>{mark('dog', 'x', 1, 2, 3)}</annotation>"  # type: ignore[arg-type]
    )
    Image.new("RGB", (20, 20)).save(voc / "JPEGImages" / "alone.jpg")
    data = read_voc(voc)
    assert [sample.name for sample in data.samples] == ["JPEGImages/a.jpg"]
    assert data.left_out == 4
    told = "\n".join(data.faults)
    for words in (
        "broken.xml: expected XML but got stuck",
        "gone.xml: expected one image gone.jpg but got none",
        "words.xml: could not convert",
        "1 of 2 images have no XML file and are left out: alone.jpg",
    ):
        assert words in told
    with pytest.raises(FileNotFoundError, match="Expected XML files of PASCAL VOC"):
        read_voc(voc / "JPEGImages")
    with pytest.raises(ValueError, match="Expected a class of"):
        read_voc(voc, classes=["zebra"])


def test_flags_as_tools_spell_them(voc: Path) -> None:
    dog = mark("dog", 10, 20, 30, 40)
    spelled = [dog.replace(">0<", f">{word}<") for word in ("False", "no", "", "True", "1")]
    add(voc, "a", *(one.replace(">10<", f">{10 + place}<") for place, one in enumerate(spelled)))
    add(voc, "b", dog.replace(">0<", ">perhaps<"))
    data = read_voc(voc)
    assert data.samples[0].crowd.tolist() == [False, False, False, True, True]
    assert data.faults == ("b.xml: expected 0 or 1 for a flag but got 'perhaps'",)


def test_polygons_and_objects_without_a_box(voc: Path) -> None:
    points = "<x1>5</x1><y1>6</y1><x2>50</x2><y2>8</y2><x3>20</x3><y3>60</y3>"
    add(voc, "a", f"<object><name>dog</name><polygon>{points}</polygon></object>")
    add(voc, "b", "<object><name>dog</name><robndbox><cx>5</cx></robndbox></object>")
    data = read_voc(voc)
    assert data.samples[0].boxes.tolist() == [[5, 6, 50, 60]]
    assert data.faults == ("b.xml: an object 'dog' has no bndbox",)
    (voc / "Annotations" / "a.xml").unlink()
    with pytest.raises(ValueError, match=r"none is good: b\.xml: an object 'dog' has no bndbox"):
        read_voc(voc)


def test_without_val_a_split_is_named_or_the_only_one(voc: Path) -> None:
    for name in "abc":
        add(voc, name, mark("dog", 10, 20, 30, 40))
    lists = voc / "ImageSets" / "Main"
    lists.mkdir(parents=True)
    (lists / "test.txt").write_text("b\n")
    assert [sample.name for sample in read_dataset(voc).samples] == ["JPEGImages/b.jpg"]
    (lists / "trainval.txt").write_text("a\nc\n")
    with pytest.raises(ValueError, match="it has trainval, test, and no val: name one"):
        read_dataset(voc)
    assert len(read_dataset(voc, split="trainval")) == 2


def test_folders_of_train_and_test_are_not_taken_together(tmp_path: Path) -> None:
    for split in ("train", "test"):
        for folder in ("Annotations", "JPEGImages"):
            (tmp_path / split / folder).mkdir(parents=True)
        add(tmp_path / split, "a", mark("dog", 10, 20, 30, 40))
    with pytest.raises(ValueError, match="it has train, test, and no val: name one"):
        read_dataset(tmp_path)
    assert len(read_dataset(tmp_path, split="test")) == 1
