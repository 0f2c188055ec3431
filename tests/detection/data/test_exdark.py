from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from detection import COCO_CLASSES, EXDARK_CLASSES, Dataset, Detections, ExDark, evaluate, read_dataset
from detection.data.core import Pixels
from detection.data.exdark import LIGHTS
from detection.enhancers import raw

Folder = Any  # `ExDarkFolder` of conftest.py, which cannot be imported from here


def names(data: Any) -> list[str]:
    return [sample.name for sample in data.samples]


class TestReading:
    def test_an_image(self, exdark: Folder) -> None:
        exdark.add("Cat/a_1.png", "Cat 5 6 10 20", "People 0 1 40 29", listed="6 10 2 3")
        data = ExDark(exdark.root, "test")
        assert isinstance(data, Dataset)
        (sample,) = data.samples
        assert sample.name == "Cat/a_1.png"
        assert sample.boxes.tolist() == [[5, 6, 15, 26], [0, 1, 40, 30]]
        assert [EXDARK_CLASSES[label] for label in sample.labels] == ["Cat", "People"]
        assert (sample.category, sample.light, sample.place) == ("Cat", "Twilight", "outdoor")
        assert sample.crowd.tolist() == [False, False]
        assert sample.path == exdark.root / "ExDark" / "Cat" / "a_1.png"
        assert sample.load().shape == (30, 40, 3)

    @pytest.mark.parametrize("number", range(1, 11))
    def test_types_of_light_and_places(self, exdark: Folder, number: int) -> None:
        exdark.add("Dog/a.png", listed=f"9 {number} {1 + number % 2} 3")
        (sample,) = ExDark(exdark.root, "test").samples
        assert sample.light == LIGHTS[number - 1]
        assert sample.place == ("indoor", "outdoor")[number % 2]

    def test_classes_by_name(self, exdark: Folder) -> None:
        exdark.add("Table/a.png", "Table 1 1 5 5", "Motorbike 1 1 6 6", listed="12 1 1 3")
        data = ExDark(exdark.root, "test", classes=COCO_CLASSES)
        assert [data.classes[label] for label in data.samples[0].labels] == ["dining table", "motorcycle"]
        (sample,) = ExDark(exdark.root, "test", classes=["person", "motorcycle"]).samples
        assert sample.boxes.tolist() == [[1, 1, 7, 7]]
        assert sample.labels.tolist() == [1]

    def test_names_match_without_regard_to_case(self, exdark: Folder) -> None:
        exdark.add("Bus/a.jpg", "Bus 1 1 5 5", listed="4 1 1 2")
        exdark.list("B.JPG 4 1 1 3")
        exdark.list("c.jpg 4 1 1 3")
        for image, annotation in (("b.jpg", "b.JPG"), ("C.JPG", "c.Jpg")):
            Image.new("RGB", (40, 30)).save(exdark.root / "ExDark" / "Bus" / image)
            exdark.annotate(f"Bus/{annotation}.txt", ["Bus 1 2 3 4"])
        data = ExDark(exdark.root, "test")
        assert names(data) == ["Bus/b.jpg", "Bus/C.JPG"]  # as on the disk, so that they lead to the files
        assert [sample.boxes.tolist() for sample in data.samples] == [[[1, 2, 4, 6]]] * 2
        assert data.faults == ()

    def test_names_that_differ_in_case_alone(self, exdark: Folder, tmp_path: Path) -> None:
        exdark.add("Bus/a.jpg", "Bus 1 1 5 5", listed="4 1 1 3")
        if (exdark.root / "ExDark" / "Bus" / "A.JPG").exists():
            pytest.skip("the file system takes a.jpg and A.JPG for one")
        exdark.add("Bus/A.JPG", "Bus 2 2 6 6", "Bus 3 3 7 7", listed="4 2 1 3")
        data = ExDark(exdark.root, "test")
        assert names(data) == ["Bus/a.jpg", "Bus/A.JPG"]
        assert [len(sample.boxes) for sample in data.samples] == [1, 2]
        assert [sample.light for sample in data.samples] == ["Low", "Ambient"]
        assert data.faults == ()
        (tmp_path / "one.txt").write_text("A.JPG\n")
        assert names(ExDark(exdark.root, tmp_path / "one.txt")) == ["Bus/A.JPG"]

    def test_a_byte_order_mark(self, exdark: Folder) -> None:
        exdark.add("Bus/a.jpg", listed="4 1 1 3")
        exdark.write("Bus/a.jpg.txt", "\ufeff% bbGt version=3\nBus 1 1 5 5 0 0 0 0 0 0 0\n")
        data = ExDark(exdark.root, "test")
        assert data.samples[0].boxes.tolist() == [[1, 1, 6, 6]]
        assert data.faults == ()

    def test_all_endings(self, exdark: Folder) -> None:
        endings = ("jpg", "JPG", "jpeg", "JPEG", "png")
        for number, ending in enumerate(endings):
            exdark.add(f"Cup/a_{number}.{ending}", "Cup 0 0 9 9", listed="8 1 1 3")
        data = ExDark(exdark.root, "test")
        assert names(data) == [f"Cup/a_{number}.{ending}" for number, ending in enumerate(endings)]
        assert all(sample.load().shape == (30, 40, 3) for sample in data.samples)

    def test_an_image_without_boxes_stays(self, exdark: Folder) -> None:
        exdark.add("Boat/header.png", listed="2 1 1 3")
        exdark.add("Boat/empty.png", listed="2 1 1 3")
        exdark.write("Boat/empty.png.txt", "")
        data = ExDark(exdark.root, "test")
        assert [sample.boxes.shape for sample in data.samples] == [(0, 4), (0, 4)]
        assert data.faults == ()

    def test_the_mark_ignore_is_a_crowd(self, exdark: Folder) -> None:
        exdark.add("Car/a.png", listed="5 1 1 3")
        exdark.write(
            "Car/a.png.txt", "% bbGt version=3\nCar 1 1 5 5 0 0 0 0 0 1 0\nCar 9 9 5 5 1 2 3 4 5 0 6\n"
        )
        assert ExDark(exdark.root, "test").samples[0].crowd.tolist() == [True, False]

    def test_boxes_belong_to_the_stored_pixels(self, exdark: Folder) -> None:
        exif = Image.Exif()
        exif[0x0112] = 6  # turn by 90° to view: 30×40
        exdark.add("Cat/a.jpg", "Cat 25 5 15 20", listed="6 1 1 3", exif=exif)
        data = ExDark(exdark.root, "test")
        assert data.samples[0].boxes.tolist() == [[25, 5, 40, 25]]
        assert data.samples[0].load().shape == (30, 40, 3)
        assert data.faults == ()

    def test_headers_are_opened_and_nothing_is_decoded(self, exdark: Folder) -> None:
        for number in range(50):
            exdark.add(f"Cat/a_{number}.jpg", "Cat -1 5 100 20", listed="6 1 1 3")
            file = exdark.root / "ExDark" / "Cat" / f"a_{number}.jpg"
            whole = file.read_bytes()
            file.write_bytes(whole[: whole.index(b"\xff\xda") + 14])  # up to where the pixels start
        data = ExDark(exdark.root, "test")
        assert len(data) == 50
        assert all(sample.boxes.tolist() == [[0, 5, 40, 25]] for sample in data.samples)
        with pytest.raises(OSError, match="truncated"):
            data.samples[0].load()


class TestSplits:
    @pytest.fixture
    def root(self, exdark: Folder) -> Path:
        for number, split in enumerate((1, 1, 1, 2, 2, 3)):
            exdark.add(f"Dog/a_{number}.jpg", listed=f"9 1 1 {split}")
        root: Path = exdark.root
        return root

    def test_as_listed(self, root: Path) -> None:
        assert names(ExDark(root, "train")) == ["Dog/a_0.jpg", "Dog/a_1.jpg", "Dog/a_2.jpg"]
        assert names(ExDark(root, "val")) == ["Dog/a_3.jpg", "Dog/a_4.jpg"]
        assert names(ExDark(root, "test")) == ["Dog/a_5.jpg"]
        assert ExDark(root, "val").note == "ExDark, val"

    def test_a_file_of_names(self, root: Path, tmp_path: Path) -> None:
        file = tmp_path / "fifth.txt"
        file.write_text("a_5.jpg\n\nDog/a_0.JPG\r\na_3\nlists\\Dog\\A_1.png\na_5\nb_9.jpg\n")
        data = ExDark(root, file)
        assert names(data) == ["Dog/a_5.jpg", "Dog/a_0.jpg", "Dog/a_3.jpg", "Dog/a_1.jpg"]
        assert data.faults == ("fifth.txt: b_9.jpg is not in imageclasslist.txt",)
        assert data.note == "ExDark, the split fifth.txt"
        assert names(ExDark(str(root), str(file))) == names(data)

    def test_errors(self, root: Path, tmp_path: Path) -> None:
        with pytest.raises(
            ValueError, match="`split` to be train, val, test or a file of names but got 'all'"
        ):
            ExDark(root, "all")
        with pytest.raises(ValueError, match="one of zebra but got Bicycle"):
            ExDark(root, "test", classes=["zebra"])
        (root / "imageclasslist.txt").write_text("Name | Class | Light | In/Out | Train/Val/Test\n")
        with pytest.raises(ValueError, match=r"name class light in/out split.* but got none"):
            ExDark(root, "test")
        (root / "ExDark_Annno").rename(root / "ExDark_Anno")
        with pytest.raises(FileNotFoundError, match=r"three n's.* there is no ExDark_Annno"):
            ExDark(root, "test")


class Everywhere:
    """A detector that finds a cat in all of every image."""

    names = ("cat",)

    def __call__(self, images: Sequence[Pixels]) -> list[Detections]:
        return [
            Detections(np.array([[0.0, 0.0, *image.shape[1::-1]]]), np.array([0.9]), np.array([0]))
            for image in images
        ]


class TestFaults:
    def test_boxes_that_reach_outside(self, exdark: Folder) -> None:
        exdark.add("Cat/a.png", "Cat -1 -2 11 12", "Cat 30 20 15 15", "Cat 1 1 39 29", listed="6 1 1 3")
        exdark.add(
            "Cat/b.png", "Cat 40 0 5 5", "Cat -9 -9 9 9", "Cat 5 5 0 9", "Cat 5 5 9 -3", listed="6 1 1 3"
        )
        first, second = ExDark(exdark.root, "test").samples
        assert first.boxes.tolist() == [[0, 0, 10, 10], [30, 20, 40, 30], [1, 1, 40, 30]]
        assert len(second.boxes) == len(second.labels) == len(second.crowd) == 0
        assert ExDark(exdark.root, "test").faults == (
            "Cat/a.png: cut 2 of 3 boxes, as the image measures 40×30 pixels",
            "Cat/b.png: dropped 2 of 4 boxes, as the image measures 40×30 pixels",
            "Cat/b.png: dropped 2 of 4 boxes, without width or height",
        )

    def test_twenty_images_with_every_fault(self, exdark: Folder) -> None:
        whole = "Cat 0 0 40 30"
        for number in range(20):
            exdark.add(f"Cat/a_{number:02}.png", whole, listed="6 1 1 3")
        images = exdark.root / "ExDark" / "Cat"
        annotations = exdark.root / "ExDark_Annno" / "Cat"
        (images / "a_00.png").unlink()
        (annotations / "a_01.png.txt").unlink()
        (images / "a_02.png").write_bytes(b"no image")
        (images / "a_03.png").write_bytes((images / "a_03.png").read_bytes()[:400])  # only decoding tells
        exdark.annotate("Cat/a_04.png.txt", [whole, "Unicorn 1 1 5 5"])
        exdark.annotate("Cat/a_05.png.txt", ["Cat -1 0 41 30"])
        exdark.annotate("Cat/a_06.png.txt", [whole, "Cat 50 50 9 9"])
        exdark.annotate("Cat/a_07.png.txt", ["Cat one two 9 9"])
        exdark.annotate("Cat/a_08.png.txt", ["Cat nan 0 9 9"])
        exdark.write("Cat/a_09.png.txt", "% bbGt version=3\nCat 0 0 40")
        exdark.write("Cat/a_10.png.txt", "Cat 0 0 40 30 0 0 0 0 0 0 0\n")
        (annotations / "a_11.png.txt").write_bytes(b"% bbGt version=3\n\xff\xfe\x00")
        exdark.annotate("Cat/a_12.png.txt", [])
        for line in ("a_20.png 13 1 1 3", "a_21.png 6 11 1 3", "a_22.png 6 1 0 3", "a_23.png 6 1 1 4"):
            exdark.list(line)
        exdark.list("a_24.png 6 1")
        exdark.list("A_13.PNG 6 1 1 1")
        (images / "a_25.png").write_bytes((images / "a_19.png").read_bytes())

        data = ExDark(exdark.root, "test")
        left_out = [0, 1, 2, 7, 8, 9, 10, 11]
        assert names(data) == [f"Cat/a_{number:02}.png" for number in range(20) if number not in left_out]
        lists = [fault for fault in data.faults if fault.startswith("imageclasslist.txt")]
        assert [fault.partition(": ")[2] for fault in lists] == [
            "unknown class '13', expected 1 to 12",
            "unknown light '11', expected 1 to 10",
            "unknown in/out '0', expected 1 to 2",
            "unknown split '4', expected 1 to 3",
            "expected `name class light in/out split` but got 'a_24.png 6 1'",
            "Cat/A_13.PNG is listed before; the first line counts",
            "no line for 1 of the files in ExDark, such as Cat/a_25.png",
        ]
        others = dict(fault.split(": ", 1) for fault in data.faults if fault not in lists)
        says = {
            0: "there is no a_00.png",
            1: "there is no a_01.png.txt",
            2: "cannot identify image file",
            4: "dropped 1 of 2 boxes, of unknown class Unicorn",
            5: "cut 1 of 1 boxes",
            6: "dropped 1 of 2 boxes, as the image",
            7: "its annotation, line 2: could not convert string to float: 'one'",
            8: "expected finite numbers",
            9: "expected `class left top width height` and seven numbers but got 'Cat 0 0 40'",
            10: "expected an annotation that starts with `% bbGt version=3`",
            11: "can't decode",
        }
        assert list(others) == [f"Cat/a_{number:02}.png" for number in says]
        for (name, fault), part in zip(others.items(), says.values(), strict=True):
            assert part in fault, name

        table = evaluate(data, {"raw": raw}, Everywhere())
        assert table["light"].tolist() == ["Low"]
        assert table["images"].tolist() == [11]  # a_03 could not be decoded
        assert (table.attrs["used"], table.attrs["of"]) == (11, 20)
        faults = table.attrs["faults"]
        assert set(data.faults) < set(faults)
        assert len([fault for fault in faults if fault.startswith("Cat/a_03.png: ")]) == 1


def test_read_dataset_knows_it(exdark: Folder) -> None:
    exdark.add("Cat/a.png", listed="6 1 1 1")
    exdark.add("Cat/b.png", listed="6 1 1 3")
    assert names(read_dataset(exdark.root)) == ["Cat/b.png"]
    assert names(read_dataset(exdark.root, split="train")) == ["Cat/a.png"]
    (exdark.root / "imageclasslist.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"there is no imageclasslist\.txt"):
        read_dataset(exdark.root)
