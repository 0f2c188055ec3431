from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, features

import detection.detectors.ultralytics  # noqa: F401 - keeps ultralytics, where a test imports it, off the network
from detection import (
    COCO_CLASSES,
    EXDARK_CLASSES,
    Dataset,
    ExDark,
    darken,
    read_dataset,
    read_yolo,
    write_yolo,
)


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

    @pytest.mark.parametrize(
        ("images", "labels", "end"), [("Images", "Labels", ".txt"), ("IMAGES", "LABELS", ".TXT")]
    )
    def test_spelling_of_the_folders_and_endings(
        self, yolo: Path, images: str, labels: str, end: str
    ) -> None:
        (yolo / "images").rename(yolo / images)
        (yolo / "labels").rename(yolo / labels)
        (yolo / labels / "val/a.txt").rename(yolo / labels / f"val/a{end}")
        (yolo / "set.yaml").write_text(f"val: {images}/val\nnames: {list(COCO_CLASSES)}", encoding="utf-8")
        np.testing.assert_allclose(read_dataset(yolo).samples[0].boxes, [[50, 40, 150, 60]])

    def test_one_label_file_of_two_images(self, yolo: Path) -> None:
        Image.new("RGB", (100, 100)).save(yolo / "images/val/a.jpg")
        data = read_yolo(yolo)
        assert [s.name for s in data.samples] == ["val/a.jpg", "val/a.png", "val/empty.png"]
        assert "a.txt is the label file of a.jpg and a.png: all are taken, each with its boxes" in data.faults

    def test_other_kinds_of_images_are_read_or_told(self, yolo: Path) -> None:
        if not features.check("avif"):
            pytest.skip("this Pillow was built without AVIF")
        Image.open(yolo / "images/val/a.png").save(yolo / "images/val/a.avif")
        (yolo / "images/val/a.png").unlink()
        (yolo / "images/val/b.heic").write_bytes(b"\0\0\0\x18ftypheic")
        data = read_yolo(yolo)
        assert [s.name for s in data.samples] == ["val/a.avif", "val/empty.png"]
        assert data.faults[0].startswith("val/b.heic: cannot identify image file")
        assert data.left_out == 1

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
        data = read_yolo(yolo, names=COCO_CLASSES)
        assert [s.name for s in data.samples] == ["val/a.png", "val/empty.png"]
        assert [fault.partition(":")[0] for fault in data.faults] == [
            "labels/val/orphan.txt",
            "val/broken.png",
            "val/high.png",
            "val/short.png",
            "val/words.png",
        ]
        assert data.left_out == 5

    def test_no_number_is_no_box(self, yolo: Path) -> None:
        (yolo / "labels/val/a.txt").write_text("0 0.5 nan 0.5 0.2\n", encoding="utf-8")
        (fault,) = read_yolo(yolo).faults
        assert fault.startswith("val/a.png: its label file, line 1: expected finite numbers")

    def test_boxes_beyond_the_image(self, yolo: Path) -> None:
        (yolo / "labels/val/a.txt").write_text("0 0.9 0.5 0.4 0.2\n0 2 2 0.1 0.1\n0 0.5 0.5 -0.1 0.1\n")
        data = read_yolo(yolo)
        np.testing.assert_allclose(data.samples[0].boxes, [[140, 40, 200, 60]])
        assert data.samples[0].labels.shape == data.samples[0].crowd.shape == (1,)
        assert data.faults == (
            "val/a.png: cut 1 of 3 boxes, as the image measures 200×100 pixels",
            "val/a.png: dropped 1 of 3 boxes, as the image measures 200×100 pixels",
            "val/a.png: dropped 1 of 3 boxes, without width or height",
        )

    def test_errors(self, tmp_path: Path, yolo: Path) -> None:
        with pytest.raises(FileNotFoundError, match="images"):
            read_yolo(tmp_path / "labels")
        (yolo / "data.yaml").write_text("nc: 3", encoding="utf-8")
        with pytest.raises(ValueError, match="list `names`"):
            read_yolo(yolo)
        (yolo / "data.yaml").unlink()
        (yolo / "labels").rename(yolo / "label")
        with pytest.raises(FileNotFoundError, match="Expected the labels"):
            read_yolo(yolo)


class TestLabels:
    @pytest.mark.parametrize(
        "line",
        [
            "0.0 0.5 0.5 0.5 0.2",
            "0 0.25 0.4 0.75 0.4 0.75 0.6 0.25 0.6",  # a polygon
            "0 0.25 0.5 0.5 0.4 0.75 0.5 0.5 0.6",
        ],
    )
    def test_other_ways_to_write_a_box(self, yolo: Path, line: str) -> None:
        (yolo / "labels/val/a.txt").write_text(f"{line}\n45 0.1 0.1 0.1 0.1\n")
        data = read_yolo(yolo)
        np.testing.assert_allclose(data.samples[0].boxes, [[50, 40, 150, 60]])
        assert data.faults == ()

    def test_a_class_between_two_is_none(self, yolo: Path) -> None:
        (yolo / "labels/val/a.txt").write_text("0.5 0.5 0.5 0.5 0.2\n")
        assert "line 1: expected `class cx cy w h`" in read_yolo(yolo).faults[0]

    def test_pixels_are_no_shares(self, yolo: Path) -> None:
        (yolo / "labels/val/a.txt").write_text("0 100 50 100 20\n")
        assert "val/a.png: its label file, line 1: expected numbers relative to" in read_yolo(yolo).faults[0]

    def test_a_pose_without_its_shape_is_no_polygon(self, yolo: Path) -> None:
        (yolo / "labels/val/a.txt").write_text("0 0.5 0.5 0.5 0.2 0.4 0.4 2 0.6 0.6 1\n")
        assert "expected a polygon, or `kpt_shape` in the data.yaml" in read_yolo(yolo).faults[0]

    def test_a_lost_label_file_is_told(self, yolo: Path) -> None:
        Image.new("RGB", (9, 9)).save(yolo / "images/val/third.png")
        told = "1 of 3 images have no label file and are taken to show nothing"
        assert read_yolo(yolo).faults == (told,)

    def test_images_of_unknown_kinds_are_left_out_and_told(self, yolo: Path) -> None:
        Image.new("L", (9, 9)).save(yolo / "images/val/third.gif")
        for name in ("third", "gone"):
            (yolo / f"labels/val/{name}.txt").write_text("0 0.5 0.5 0.5 0.2\n")
        data = read_yolo(yolo)
        assert (len(data), data.left_out) == (2, 2)
        assert data.faults == (
            "labels/val/gone.txt: there is no image of this name",
            "labels/val/third.txt: third.gif is of no kind that is read",
        )

    @pytest.mark.parametrize("ending", [".jfif", ".jpe", ".ppm", ".pgm"])
    def test_rarer_endings_of_what_pillow_reads(self, yolo: Path, ending: str) -> None:
        Image.new("L", (200, 100)).save(yolo / f"images/val/third{ending}")
        (yolo / "labels/val/third.txt").write_text("0 0.5 0.5 0.5 0.2\n")
        data = read_yolo(yolo)
        assert data.faults == ()
        assert data.samples[2].boxes.tolist() == [[50, 40, 150, 60]]
        assert data.samples[2].load().shape == (100, 200, 3)

    def test_as_many_names_as_classes(self, yolo: Path) -> None:
        (yolo / "data.yaml").write_text(f"nc: 2\nnames: [{', '.join(['person'] * 46)}]")
        with pytest.raises(ValueError, match=r"as many `names` as `nc` says in .* but got 46 and 2"):
            read_yolo(yolo)

    def test_the_box_of_a_pose(self, yolo: Path) -> None:
        (yolo / "data.yaml").write_text(f"kpt_shape: [2, 3]\nnames: [{', '.join(['person'] * 46)}]")
        (yolo / "labels/val/a.txt").write_text("0 0.5 0.5 0.5 0.2 0.1 0.1 2 0.2 0.2 2\n")
        np.testing.assert_allclose(read_yolo(yolo).samples[0].boxes, [[50, 40, 150, 60]])

    def test_utf_16(self, yolo: Path) -> None:
        (yolo / "labels/val/a.txt").write_text("0 0.5 0.5 0.5 0.2\n", encoding="utf-16")
        np.testing.assert_allclose(read_yolo(yolo).samples[0].boxes, [[50, 40, 150, 60]])

    def test_the_same_box_thrice(self, yolo: Path) -> None:
        (yolo / "labels/val/a.txt").write_text("0 0.5 0.5 0.5 0.2\n" * 3 + "0 0.5 0.5 0.5 0.3\n")
        data = read_yolo(yolo)
        assert len(data.samples[0].boxes) == 2
        assert data.faults == ("val/a.png: dropped 2 of 4 boxes, which are there twice",)

    @pytest.mark.parametrize("kind", ["png", "jpg", "webp", "tif"])
    @pytest.mark.parametrize("orientation", [3, 6, 8])
    def test_labels_belong_to_the_upright_picture(self, tmp_path: Path, kind: str, orientation: int) -> None:
        upright = np.zeros((100, 200, 3), np.uint8)
        upright[20:60, 50:150] = 255
        stored = np.rot90(upright, {3: 2, 6: 1, 8: -1}[orientation])
        exif = Image.Exif()
        exif[0x0112] = orientation
        for folder in ("images", "labels"):
            (tmp_path / folder).mkdir()
        Image.fromarray(np.ascontiguousarray(stored)).save(tmp_path / f"images/a.{kind}", exif=exif)
        (tmp_path / "labels/a.txt").write_text("0 0.5 0.4 0.5 0.4\n")
        (sample,) = read_yolo(tmp_path).samples
        np.testing.assert_allclose(sample.boxes, [[50, 20, 150, 60]])
        image = sample.load()
        assert image.shape == (100, 200, 3)
        assert image[22:58, 52:148].min() > 200
        assert image[:, :46].max() < 50
        written = write_yolo(read_yolo(tmp_path), tmp_path / "again").samples[
            0
        ]  # and so is what is written of it
        np.testing.assert_allclose(written.boxes, [[50, 20, 150, 60]], atol=1e-3)
        assert np.array_equal(written.load(), image)

    def test_deep_pixels(self, tmp_path: Path) -> None:
        for folder in ("images", "labels"):
            (tmp_path / folder).mkdir()
        grey = np.arange(0, 65536, 256, dtype=np.uint16).reshape(16, 16)
        Image.fromarray(grey).save(tmp_path / "images/a.png")
        Image.fromarray(grey).save(tmp_path / "images/b.tif")
        Image.fromarray(grey.astype(np.float32) / 65535).save(tmp_path / "images/c.tif")
        Image.fromarray(grey.astype(np.int32)).save(tmp_path / "images/d.tif")
        data = read_yolo(tmp_path)
        for sample in data.samples[:3]:
            assert np.array_equal(sample.load()[..., 0], np.rint(grey / 257))
        with pytest.raises(ValueError, match="whole numbers of 32 bits"):
            data.samples[3].load()
        assert data.faults[1:] == (
            "a.png and 1 more: 16 bits, rounded to 8",
            "c.tif: floats, rounded to 8",
            "d.tif: whole numbers of 32 bits, rounded to 8",
        )

    def test_links_are_followed_and_rings_are_not(
        self, yolo: Path, tmp_path_factory: pytest.TempPathFactory
    ) -> None:
        elsewhere = tmp_path_factory.mktemp("elsewhere")
        for kind in ("images", "labels"):
            (yolo / kind / "val").rename(elsewhere / kind)
            (yolo / kind / "val").symlink_to(elsewhere / kind)
            (elsewhere / kind / "ring").symlink_to(yolo / kind)
        data = read_yolo(yolo)
        assert [sample.name for sample in data.samples] == ["val/a.png", "val/empty.png"]
        assert [len(sample.boxes) for sample in data.samples] == [1, 0]

    def test_what_macos_leaves(self, yolo: Path) -> None:
        for name in ("._a.png", "._empty.png"):
            (yolo / "images/val" / name).write_bytes(b"\0\5\x16\7")
        (yolo / "labels/val/._a.txt").write_bytes(b"\0\5\x16\7")
        data = read_yolo(yolo)
        assert len(data) == 2
        assert data.left_out == 0
        assert data.faults == (
            "passed over 2 files such as ._a.png, which macOS leaves beside the real ones",
        )


class TestWriting:
    @pytest.fixture
    def data(self, exdark: Any) -> Dataset:
        exif = Image.Exif()
        exif[0x0112] = 6  # turn by 90° to view
        exdark.add("Cat/a.jpg", "Cat -1 3 21 10", "People 5 5 11 20", listed="6 3 1 3", exif=exif)
        exdark.add("Dog/b.JPG", "Dog 1 1 7 5", listed="9 1 1 3")
        exdark.add("Dog/c.png", listed="9 1 1 3")
        return ExDark(exdark.root, "test")

    def test_exdark_and_back(self, data: Dataset, tmp_path: Path) -> None:
        written = write_yolo(data, tmp_path / "yolo")
        again = read_yolo(tmp_path / "yolo")
        assert [sample.name for sample in again.samples] == ["Cat/a.png", "Dog/b.JPG", "Dog/c.png"]
        assert [sample.name for sample in written.samples] == [sample.name for sample in again.samples]
        assert written.faults == data.faults  # the cut box of a.jpg
        for one, other in zip(data.samples, again.samples, strict=True):
            np.testing.assert_allclose(other.boxes, one.boxes, atol=1e-4)
            assert np.array_equal(other.labels, one.labels)
            assert np.array_equal(other.load(), one.load())
        copied = (tmp_path / "yolo" / "images" / "Dog" / "b.JPG").read_bytes()
        assert data.samples[1].path is not None
        assert copied == data.samples[1].path.read_bytes()

    def test_ultralytics_reads_the_same(self, data: Dataset, tmp_path: Path) -> None:
        from ultralytics.data.dataset import YOLODataset
        from ultralytics.data.utils import check_det_dataset

        write_yolo({"test": data, "train": data.replace(samples=data.samples[:2])}, tmp_path / "yolo")
        (tmp_path / "yolo").rename(tmp_path / "moved")
        described = check_det_dataset(tmp_path / "moved" / "data.yaml")
        assert list(described["names"].values()) == list(EXDARK_CLASSES)
        assert Path(described["train"]) == tmp_path / "moved" / "images" / "train"
        assert described["val"] == described["test"]
        seen = YOLODataset(img_path=described["test"], data=described, imgsz=40, augment=False)
        for number, sample in enumerate(data.samples):
            image, _, _ = seen.load_image(number)
            height, width = sample.load().shape[:2]
            assert image.shape == (height, width, 3)  # not turned
            assert np.abs(image[..., ::-1].astype(int) - sample.load()).mean() < 2
            label = seen.labels[number]
            centre, half = label["bboxes"][:, :2], label["bboxes"][:, 2:] / 2
            corners = np.concatenate([centre - half, centre + half], 1) * [width, height, width, height]
            np.testing.assert_allclose(corners, sample.boxes, atol=1e-3)
            assert label["cls"].ravel().tolist() == sample.labels.tolist()

    def test_what_is_made_when_it_is_loaded(self, data: Dataset, tmp_path: Path) -> None:
        night = darken(data, "mild")
        again = write_yolo(night, tmp_path / "yolo")
        assert [sample.name for sample in again.samples] == ["Cat/a.png", "Dog/b.png", "Dog/c.png"]
        for one, other in zip(night.samples, again.samples, strict=True):
            assert np.array_equal(other.load(), one.load())

    def test_names_that_differ_in_their_endings_alone(self, exdark: Any, tmp_path: Path) -> None:
        exdark.add("Dog/a.jpg", "Dog 1 1 7 5", listed="9 1 1 3")
        exdark.add("Dog/a.png", "Dog 2 2 8 6", "Dog 3 3 9 7", listed="9 1 1 3")
        exdark.add("Dog/b.png", listed="9 1 1 3")
        again = write_yolo(ExDark(exdark.root, "test"), tmp_path / "yolo")
        assert [(sample.name, len(sample.boxes)) for sample in again.samples] == [
            ("Dog/a.jpg.jpg", 1),
            ("Dog/a.png.png", 2),
            ("Dog/b.png", 0),
        ]
        assert again.faults == ()

    def test_crowds_and_what_cannot_be_read(self, data: Dataset, tmp_path: Path) -> None:
        cat, dog, empty = data.samples
        assert cat.path is not None
        cat.path.write_bytes(b"no image")
        crowd = replace(dog, crowd=np.array([True]))
        wide = replace(empty, boxes=np.array([[-5.0, 0, 10, 10], [90, 0, 99, 9]]), labels=np.array([1, 1]))
        wide = replace(wide, crowd=np.array([False, False]))
        again = write_yolo(data.replace(samples=(cat, crowd, wide), faults=("before",)), tmp_path / "yolo")
        assert [sample.name for sample in again.samples] == ["Dog/b.JPG", "Dog/c.png"]
        assert [sample.boxes.shape for sample in again.samples] == [(0, 4), (1, 4)]
        np.testing.assert_allclose(again.samples[1].boxes, [[0, 0, 10, 10]], atol=1e-4)
        assert [fault.partition(":")[0] for fault in again.faults] == [
            "before",
            "Cat/a.jpg",
            "Dog/c.png",
            "Dog/c.png",
        ]
        assert again.left_out == 1
        assert not list((tmp_path / "yolo").rglob(".*"))

    def test_rounding_is_no_fault(self, data: Dataset, tmp_path: Path) -> None:
        dog = replace(data.samples[1], boxes=np.array([[0, 0, 40.001, 30]]))
        again = write_yolo(data.replace(samples=(dog,), faults=()), tmp_path / "yolo")
        assert again.samples[0].boxes.tolist() == [[0, 0, 40, 30]]
        assert again.faults == ()

    def test_errors(self, data: Dataset, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=r"sets train, val, test but got \['night'\]"):
            write_yolo({"night": data}, tmp_path / "yolo")
        with pytest.raises(ValueError, match="sets train, val, test but got"):
            write_yolo({}, tmp_path / "yolo")
        with pytest.raises(ValueError, match="one list of classes"):
            write_yolo({"train": data, "val": data.replace(classes=("face",))}, tmp_path / "yolo")
        with pytest.raises(ValueError, match=r"got cat/a\.jpg twice"):
            write_yolo(darken(data, "mild", "dark"), tmp_path / "yolo")
        for name in ("../a.jpg", "/a.jpg", ""):
            outside = data.replace(samples=(replace(data.samples[0], name=name),))
            with pytest.raises(ValueError, match="names of files below a folder"):
                write_yolo(outside, tmp_path / "yolo")
        assert not (tmp_path / "yolo").exists()
        with pytest.raises(FileExistsError, match="new or empty"):
            write_yolo(data, tmp_path)
