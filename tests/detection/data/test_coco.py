import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from detection import (
    COCO_CLASSES,
    EXDARK_CLASSES,
    Dataset,
    ExDark,
    darken,
    read_coco,
    read_dataset,
    sample_set,
    write_coco,
)


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

    def test_boxes_beyond_the_image_and_missing_images(self, tmp_path: Path, coco: dict[str, Any]) -> None:
        for bbox in ([90, -5, 30, 15], [200, 0, 5, 5], [50, 5, -20, 5]):
            coco["annotations"].append({"image_id": 0, "category_id": 1, "bbox": bbox})
        (tmp_path / "images" / "a.png").unlink()  # the first, by which the folder is found too
        data = read_coco(write(tmp_path, coco))
        (sample,) = data.samples
        assert sample.boxes.tolist() == [[90, 0, 100, 10]]
        assert data.left_out == 1
        missing, cut, dropped, empty = data.faults
        assert missing.startswith("a.png: ")
        assert cut == "b.png: cut 1 of 3 boxes, as the image measures 100×50 pixels"
        assert dropped == "b.png: dropped 1 of 3 boxes, as the image measures 100×50 pixels"
        assert empty == "b.png: dropped 1 of 3 boxes, without width or height"
        assert darken(data, "mild", "dark").left_out == 2

    @pytest.mark.parametrize(
        ("bad", "fault"),
        [
            ({"image_id": 999}, "unknown image_id 999"),
            ({"image_id": [7]}, "unhashable"),
            ({"category_id": 77}, "unknown category_id 77"),
            ({"bbox": []}, r"bbox .* but got \[\]"),
            ({"bbox": [0, 0, 9, None]}, "None"),
            ({"bbox": [0, 0, 9, float("nan")]}, "finite"),
        ],
    )
    def test_an_annotation_that_makes_no_sense(
        self, tmp_path: Path, coco: dict[str, Any], bad: dict[str, Any], fault: str
    ) -> None:
        del coco["annotations"][3]
        coco["annotations"].append({**coco["annotations"][0], **bad})
        data = read_coco(write(tmp_path, coco))
        assert data.samples[0].boxes.tolist() == [[10, 20, 40, 25], [0, 0, 9, 9]]
        assert data.left_out == 0
        (line,) = data.faults
        assert re.match(f"annotations.json, annotation 4: .*{fault}", line)

    def test_flags_as_tools_spell_them(self, tmp_path: Path, coco: dict[str, Any]) -> None:
        marks = [
            {"image_id": 7, "category_id": 1, "bbox": [place, 0, 9, 9], "iscrowd": word}
            for place, word in enumerate(["0", "1", False, None, "false", True, 0.0])
        ]
        data = read_coco(write(tmp_path, coco | {"annotations": marks}))
        assert data.samples[0].crowd.tolist() == [False, True, False, False, False, True, False]
        assert data.faults == ()

    def test_thousands_of_faults_do_not_hide_the_others(self, tmp_path: Path, coco: dict[str, Any]) -> None:
        coco["annotations"] += [{"image_id": "7", "category_id": 1, "bbox": [0, 0, 9, 9]}] * 3000
        told = read_coco(write(tmp_path, coco)).faults
        assert len(told) < 30
        assert told[0] == "annotations.json, annotation 5: unknown image_id '7'"
        assert "and 2980 more like these" in told

    def test_corners_for_sizes_are_told(self, tmp_path: Path, coco: dict[str, Any]) -> None:
        marks = [{"image_id": 7, "category_id": 1, "bbox": [60, 10 + n, 90, 45]} for n in range(5)]
        data = read_coco(write(tmp_path, coco | {"annotations": marks}))
        assert data.faults[-1].startswith("5 of 5 boxes end beyond their images: are they x1 y1 x2 y2?")

    @pytest.mark.parametrize(
        "name", ["/data/them/set/a.png", "C:\\set\\images\\a.png", "a.PNG", "/x/images/a.PNG"]
    )
    def test_names_from_another_machine(self, tmp_path: Path, coco: dict[str, Any], name: str) -> None:
        for image, letter in zip(coco["images"], "ab", strict=True):
            image["file_name"] = name.replace("a.", f"{letter}.")
        data = read_coco(write(tmp_path, coco))
        assert data.samples[0].path == tmp_path / "images" / "a.png"
        (told,) = data.faults
        assert told.endswith(": dropped 1 of 3 boxes, without width or height")

    def test_doubles(self, tmp_path: Path, coco: dict[str, Any]) -> None:
        first, second = coco["images"]
        coco["images"] += [dict(second), {**first, "id": 99}]
        coco["categories"].append({"id": 1, "name": "People"})
        coco["annotations"] = [
            {"image_id": image, "category_id": 1, "bbox": box}
            for image, box in (
                (first["id"], [1, 2, 3, 4]),
                (99, [1, 2, 3, 4]),
                (99, [5, 5, 9, 9]),
                (first["id"], [1, 2, 3, 4]),
            )
        ]
        data = read_coco(write(tmp_path, coco))
        assert [sample.name for sample in data.samples] == ["a.png", "b.png"]
        assert data.samples[0].boxes.tolist() == [[1, 2, 4, 6], [5, 5, 14, 14]]
        assert data.left_out == 0
        assert data.faults == (
            "annotations.json: category 1, People, is there twice",
            f"annotations.json: image {second['id']!r}, b.png, is there 2 times",
            f"annotations.json: a.png is image {first['id']!r} and 99: taken once, with the boxes of both",
            "a.png: dropped 2 of 4 boxes, which are there twice",
        )

    def test_an_id_of_two_images_is_nobodys(self, tmp_path: Path, coco: dict[str, Any]) -> None:
        coco["images"][1]["id"] = coco["images"][0]["id"]
        Image.new("RGB", (100, 50)).save(tmp_path / "images" / "c.png")
        coco["images"].append({"id": 50, "file_name": "c.png"})
        coco["annotations"] = []
        data = read_coco(write(tmp_path, coco))
        assert [sample.name for sample in data.samples] == ["c.png"]
        assert data.left_out == 2
        assert "is a.png and b.png: left out, with all its boxes" in data.faults[0]

    def test_a_category_that_means_two_things(self, tmp_path: Path, coco: dict[str, Any]) -> None:
        coco["categories"].append({"id": 1, "name": "dog"})
        with pytest.raises(ValueError, match="1 is person and dog"):
            read_coco(write(tmp_path, coco))

    @pytest.mark.parametrize(
        ("said", "orientation", "box", "shape"),
        [
            ((100, 50), 1, [10, 20, 40, 25], (50, 100)),
            ((100, 50), 6, [10, 20, 40, 25], (50, 100)),  # stored, as the sides say
            ((50, 100), 6, [10, 20, 40, 25], (100, 50)),  # upright
            ((200, 100), 1, [5, 10, 20, 12.5], (50, 100)),
            ((100, 200), 8, [5, 10, 20, 12.5], (100, 50)),
            ((201, 101), 1, [10 * 100 / 201, 20 * 50 / 101, 40 * 100 / 201, 25 * 50 / 101], (50, 100)),
            ((100, 50), 3, [10, 20, 40, 25], (50, 100)),
        ],
    )
    def test_the_size_that_is_said(
        self,
        tmp_path: Path,
        coco: dict[str, Any],
        said: tuple[int, int],
        orientation: int,
        box: list[float],
        shape: tuple[int, int],
    ) -> None:
        exif = Image.Exif()
        exif[0x0112] = orientation
        Image.effect_noise((100, 50), 60).convert("RGB").save(tmp_path / "images" / "a.png", exif=exif)
        entry = {"id": 7, "file_name": "a.png", "width": said[0], "height": said[1]}
        coco |= {
            "images": [entry],
            "annotations": [{"image_id": 7, "category_id": 1, "bbox": [10, 20, 30, 5]}],
        }
        data = read_coco(write(tmp_path, coco))
        (sample,) = data.samples
        np.testing.assert_allclose(sample.boxes, [box])
        assert sample.load().shape[:2] == shape
        told = [fault for fault in data.faults if "scaled" in fault or "taken upright" in fault]
        assert len(told) == (said not in ((100, 50), (50, 100)) or orientation == 3)
        if orientation == 3:  # the same size either way: what is upright is what people label
            stored = np.asarray(Image.open(tmp_path / "images" / "a.png"))
            assert np.array_equal(sample.load(), stored[::-1, ::-1])
        write_coco(data, tmp_path / "images" / "again.json")
        again = read_coco(tmp_path / "images" / "again.json")
        same(again, data)
        assert again.faults == ()

    def test_another_shape_is_a_fault(self, tmp_path: Path, coco: dict[str, Any]) -> None:
        coco["images"][0] |= {"width": 100, "height": 100}
        data = read_coco(write(tmp_path, coco))
        assert [sample.name for sample in data.samples] == ["b.png"]
        assert data.left_out == 1
        assert data.faults[0] == "a.png: its boxes are of 100×100 pixels but it measures 100×50"

    def test_a_box_around_its_outline(self, tmp_path: Path, coco: dict[str, Any]) -> None:
        runs = {"size": [50, 100], "counts": [10 * 50 + 5, 10, 40, 10, 50 * 100 - 10 * 50 - 5 - 60]}
        coco["annotations"] = [
            {
                "image_id": 0,
                "category_id": 1,
                "segmentation": [[10, 20, 40, 20, 40, 25], [12, 30, 13, 31, 12, 31]],
            },
            {"image_id": 0, "category_id": 1, "segmentation": runs, "iscrowd": 1},
            {"image_id": 0, "category_id": 1, "segmentation": []},
            {"image_id": 0, "category_id": 1, "segmentation": [1, 2, 3, 4, 5, 2], "bbox": []},
        ]
        data = read_coco(write(tmp_path, coco))
        sample = next(sample for sample in data.samples if sample.name == "b.png")
        assert sample.boxes.tolist() == [[10, 20, 40, 31], [10, 5, 12, 15], [1, 2, 5, 4]]
        assert sample.crowd.tolist() == [False, True, False]
        assert "annotation 3: expected a bbox" in data.faults[0]

    def test_boxes_are_in_pixels(self, tmp_path: Path, coco: dict[str, Any]) -> None:
        coco["annotations"] = [{"image_id": 7, "category_id": 1, "bbox": [0.1, 0.2, 0.3, 0.4]}]
        with pytest.raises(ValueError, match=r"boxes in pixels in .* but all of them lie within \[0,1\]"):
            read_coco(write(tmp_path, coco))
        coco["annotations"][0]["bbox"] = [0.6, 0.2, 0.45, 0.4]  # carelessly drawn, beyond the image's edge
        with pytest.raises(ValueError, match=r"boxes in pixels in .* but all of them lie within \[0,1\]"):
            read_coco(write(tmp_path, coco))

    def test_splits_with_images_of_one_name(self, tmp_path: Path, coco: dict[str, Any]) -> None:
        (tmp_path / "annotations").mkdir()
        for folder, size in (("train", (90, 45)), ("val", (100, 50))):
            (tmp_path / folder).mkdir()
            Image.new("RGB", size).save(tmp_path / folder / "a.png")
        (tmp_path / "images").rename(tmp_path / "annotations" / "none")
        coco["images"] = coco["images"][:1]
        file = tmp_path / "annotations" / "instances_val.json"
        file.write_text(json.dumps(coco))
        assert read_coco(file).samples[0].load().shape == (50, 100, 3)
        file = file.rename(tmp_path / "annotations" / "all.json")
        with pytest.raises(
            ValueError, match=r"one folder with the images of .*all\.json.* but got .*train, .*val"
        ):
            read_coco(file)

    def test_backslashes_and_utf_16(self, tmp_path: Path, coco: dict[str, Any]) -> None:
        (tmp_path / "images" / "night").mkdir()
        (tmp_path / "images" / "a.png").rename(tmp_path / "images" / "night" / "a.png")
        coco["images"][0]["file_name"] = "night\\a.png"
        (tmp_path / "annotations.json").write_text(json.dumps(coco), encoding="utf-16")
        assert read_coco(tmp_path / "annotations.json").samples[0].name == "night/a.png"

    def test_errors(self, tmp_path: Path, coco: dict[str, Any]) -> None:
        with pytest.raises(FileNotFoundError, match="there is no such file"):
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


class TestWriting:
    def test_exdark_and_back(self, exdark: Any) -> None:
        exdark.add("Cat/a.png", "Cat -1 3 20 10", "People 5 5 10 20", listed="6 3 1 3")
        exdark.add("Dog/b.jpg", listed="9 10 2 3")
        exdark.write("Dog/b.jpg.txt", "% bbGt version=3\nDog 1 1 5 5 0 0 0 0 0 1 0\n")
        exdark.add("Dog/c.jpg", listed="9 7 2 3")
        data = ExDark(exdark.root, "test")
        file = exdark.root / "test.json"
        write_coco(data, file)
        same(read_dataset(file), data)

        elsewhere = exdark.root / "lists" / "coco" / "test.json"
        write_coco(data, elsewhere, exdark.root / "ExDark")
        same(read_coco(elsewhere, exdark.root / "ExDark"), data)

    def test_as_pycocotools_wants_it(self, exdark: Any) -> None:
        exdark.add("Cat/a.png", "Cat 1 3 20 10", "People 5 5 10 20", listed="6 3 1 3")
        exdark.add("Cat/b.png", "Cat 1 1 9 9", listed="6 1 1 3")
        file = exdark.root / "test.json"
        write_coco(ExDark(exdark.root, "test"), file)
        coco = COCO(file)
        assert coco.getImgIds() == [1, 2]
        assert coco.getAnnIds() == [1, 2, 3]
        assert [category["name"] for category in coco.loadCats(coco.getCatIds())] == list(EXDARK_CLASSES)
        assert coco.getCatIds() == list(range(1, 13))
        (image, _) = coco.loadImgs([1, 2])
        assert (image["file_name"], image["width"], image["height"]) == ("ExDark/Cat/a.png", 40, 30)
        assert coco.loadAnns([2])[0] == {
            "id": 2,
            "image_id": 1,
            "category_id": 11,
            "bbox": [5.0, 5.0, 10.0, 20.0],
            "area": 200.0,
            "iscrowd": 0,
        }

    def test_a_set_out_of_several_packages(self, tmp_path: Path) -> None:
        data = sample_set()
        paths = [sample.path for sample in data.samples]
        write_coco(data, tmp_path / "six.json", Path(os.path.commonpath([path for path in paths if path])))
        assert "no measurement" in read_coco(tmp_path / "six.json", os.path.commonpath(paths)).note
        same(read_coco(tmp_path / "six.json", os.path.commonpath(paths)), data)

    def test_errors(self, exdark: Any, tmp_path: Path) -> None:
        exdark.add("Cat/a.png", listed="6 3 1 3")
        data = ExDark(exdark.root, "test")
        with pytest.raises(ValueError, match=r"Cat/a\.png \(dark\) is none; write_darkened"):
            write_coco(darken(data, "dark"), tmp_path / "dark.json")
        with pytest.raises(ValueError, match=r"`images` to be a folder above .*a\.png"):
            write_coco(data, tmp_path / "test.json", tmp_path / "exdark" / "ExDark_Annno")
        (exdark.root / "ExDark" / "Cat" / "a.png").unlink()
        with pytest.raises(FileNotFoundError, match=r"a\.png"):
            write_coco(data, tmp_path / "test.json")
        assert not (tmp_path / "test.json").exists()

    def test_what_others_write_under_our_key(self, tmp_path: Path, coco: dict[str, Any]) -> None:
        coco["images"][0]["sample"] = "first"
        coco["images"][1]["sample"] = {"light": 3, "more": 4}
        coco["info"] = ["no", "object"]
        first, second = read_coco(write(tmp_path, coco)).samples
        assert (first.name, first.light) == ("a.png", "as stored")
        assert (second.name, second.light) == ("b.png", "3")


def same(one: Dataset, other: Dataset) -> None:
    assert (len(one), one.classes, one.note) == (len(other), other.classes, other.note)
    for a, b in zip(one.samples, other.samples, strict=True):
        assert (a.name, a.light, a.place, a.category) == (b.name, b.light, b.place, b.category)
        np.testing.assert_allclose(a.boxes, b.boxes, rtol=1e-12)
        assert np.array_equal(a.labels, b.labels)
        assert np.array_equal(a.crowd, b.crowd)
        assert np.array_equal(a.load(), b.load())
