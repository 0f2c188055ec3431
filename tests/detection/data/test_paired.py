from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from detection import read_test_sets
from detection.enhancers import Folder


def write(file: Path, size: tuple[int, int] = (30, 20), value: int = 90, kind: str | None = None) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (value, value, value)).save(file, format=kind)
    return file


def names(*roots: Path) -> list[tuple[str, str, str | None]]:
    """Set, image and reference of each sample."""
    return [
        (s.light, s.name, s.reference_path.name if s.reference_path else None)
        for s in read_test_sets(*roots).samples
    ]


class TestLayouts:
    def test_lol_v1_without_its_training_images(self, tmp_path: Path) -> None:
        root = tmp_path / "LOLv1"
        for side in ("low", "high"):
            write(root / "eval15" / side / "1.png")
            write(root / "our485" / side / "2.png")
        assert names(root) == [("LOLv1/eval15", "1.png", "1.png")]
        assert names(root / "eval15") == [("LOLv1/eval15", "1.png", "1.png")]
        assert names(root / "our485") == [("LOLv1/our485", "2.png", "2.png")]

    def test_lol_v2(self, tmp_path: Path) -> None:
        root = tmp_path / "LOLv2"
        for part in ("Test", "Train"):
            write(root / "Real_captured" / part / "Low" / "low00690.png")
            write(root / "Real_captured" / part / "Normal" / "normal00690.png")
            for side in ("Low", "Normal"):
                write(root / "Synthetic" / part / side / "r000da54ft.png")
        assert names(root) == [
            ("LOLv2/Real_captured/Test", "low00690.png", "normal00690.png"),
            ("LOLv2/Synthetic/Test", "r000da54ft.png", "r000da54ft.png"),
        ]
        assert names(root / "Real_captured" / "Test")[0][0] == "Real_captured/Test"

    def test_lsrw(self, tmp_path: Path) -> None:
        root = tmp_path / "LSRW"
        for camera in ("Huawei", "Nikon"):
            for side in ("low", "high"):
                write(root / "Eval" / camera / side / "2001.jpg")
                write(root / "Training data" / camera / side / "1.jpg")
        assert names(root) == [
            ("LSRW/Eval/Huawei", "2001.jpg", "2001.jpg"),
            ("LSRW/Eval/Nikon", "2001.jpg", "2001.jpg"),
        ]

    def test_sice_takes_the_dark_exposures(self, tmp_path: Path) -> None:
        root = tmp_path / "Dataset_Part2"
        for scene, exposures in (("1", 7), ("12", 3), ("7", 10)):
            write(root / "Label" / f"{scene}.JPG")
            for number in range(1, exposures + 1):
                write(root / scene / f"{number}.JPG")
        write(root / "Label" / "9.JPG")
        found = read_test_sets(root)
        assert [s.name for s in found.samples] == [
            *("1/1.JPG", "1/2.JPG", "1/3.JPG", "12/1.JPG"),
            *("7/1.JPG", "7/2.JPG", "7/3.JPG", "7/4.JPG"),
        ]
        assert {s.reference_path.name for s in found.samples if s.reference_path} == {
            "1.JPG",
            "12.JPG",
            "7.JPG",
        }
        (fault,) = found.faults
        assert fault.startswith("Label/9.JPG has no exposures")

    def test_images_alone(self, tmp_path: Path) -> None:
        write(tmp_path / "sets" / "DICM" / "01.jpg")
        write(tmp_path / "sets" / "LIME" / "1.bmp")
        (tmp_path / "sets" / "readme.txt").write_text("no image")
        assert names(tmp_path / "sets") == [("sets/DICM", "01.jpg", None), ("sets/LIME", "1.bmp", None)]
        dicm, lime = (tmp_path / "sets" / name for name in ("DICM", "LIME"))
        assert names(lime, dicm) == [("sets/LIME", "1.bmp", None), ("sets/DICM", "01.jpg", None)]

    def test_results_may_lie_under_the_end_of_the_sets_name(self, tmp_path: Path) -> None:
        for name in ("DICM", "LIME"):
            write(tmp_path / "theirs" / name / "1.png")
        assert Folder(tmp_path / "theirs").find("1.bmp", "sets/LIME") == tmp_path / "theirs/LIME/1.png"
        with pytest.raises(FileNotFoundError, match="expected one image of that name"):
            Folder(tmp_path / "theirs").find("1.bmp", "sets/MEF")


def test_wrong_pairs_are_listed_and_the_others_kept(tmp_path: Path) -> None:
    root = tmp_path / "set"
    for name, low, high, kind in (
        ("good.png", (30, 20), (30, 20), "PNG"),
        ("size.png", (30, 20), (20, 30), "PNG"),
        ("compressed.png", (30, 20), (30, 20), "JPEG"),  # whatever it is called
    ):
        write(root / "low" / name, low, kind=kind)
        write(root / "high" / name, high)
    write(root / "low" / "both.jpg")
    write(root / "high" / "both.jpg")
    write(root / "low" / "alone.png")
    (root / "high" / "good.png").with_name("text.png").write_text("no image")
    write(root / "low" / "text.png")
    found = read_test_sets(root)
    assert [s.name for s in found.samples] == ["both.jpg", "good.png"]
    assert len(found.faults) == 4
    for words in (
        "low/alone.png has no partner",
        "size.png differ in size: (30, 20), (20, 30)",
        "high/text.png cannot be read",
        "low/compressed.png is a JPEG, high/compressed.png is none",
    ):
        assert any(words in fault for fault in found.faults), words
    assert np.array_equal(found.samples[1].load(), np.full((20, 30, 3), 90))


@pytest.mark.parametrize(("low", "high"), [("dark", "bright"), ("Low_light", "reference")])
def test_folders_with_the_same_files_are_asked_about(tmp_path: Path, low: str, high: str) -> None:
    for name in ("1.png", "2.png", "3.png"):
        write(tmp_path / "set" / low / name)
        write(tmp_path / "set" / high / name, value=200)
    write(tmp_path / "set" / low / "4.png")
    with pytest.raises(
        ValueError, match=r"the same names and sizes\. If they are the two sides of pairs, call"
    ):
        read_test_sets(tmp_path / "set")
    assert len(read_test_sets(tmp_path / "set" / low, tmp_path / "set" / high)) == 7  # each is named


def test_sets_with_a_name_in_common_are_none_of_pairs(tmp_path: Path) -> None:
    for name in ("1.png", "2.png", "3.png"):
        write(tmp_path / "sets" / "DICM" / name)
        write(tmp_path / "sets" / "LIME" / name, size=(31, 20))
    write(tmp_path / "sets" / "MEF" / "1.png")
    for name in "abc":
        write(tmp_path / "sets" / "MEF" / f"{name}.png")
    assert len(read_test_sets(tmp_path / "sets")) == 10


def test_deep_pixels_and_what_macos_leaves(tmp_path: Path) -> None:
    for side, value in (("low", 3000), ("high", 30000)):
        (tmp_path / "set" / side).mkdir(parents=True)
        Image.fromarray(np.full((20, 30), value, np.uint16)).save(tmp_path / "set" / side / "1.png")
        (tmp_path / "set" / side / "._1.png").write_bytes(b"\0\5\x16\7")
    found = read_test_sets(tmp_path / "set")
    assert found.left_out == 0
    assert found.faults == (
        "passed over 2 files such as ._1.png, which macOS leaves beside the real ones",
        "1.png and 1 more: 16 bits, rounded to 8",
    )
    (sample,) = found.samples
    assert sample.reference is not None
    assert (sample.load()[0, 0, 0], sample.reference()[0, 0, 0]) == (12, 117)


def test_a_ring_of_links(tmp_path: Path) -> None:
    write(tmp_path / "sets" / "DICM" / "1.png")
    (tmp_path / "sets" / "DICM" / "ring").symlink_to(tmp_path / "sets")
    assert names(tmp_path / "sets") == [("sets/DICM", "1.png", None)]


def test_nothing_there(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for folder in (tmp_path / "empty", tmp_path / "gone"):
        with pytest.raises(FileNotFoundError, match=f"folder with images at {folder} but there is none"):
            read_test_sets(folder)


def test_two_sets_of_one_name(tmp_path: Path) -> None:
    for above in ("a", "b"):
        write(tmp_path / above / "sets" / "DICM" / "1.png")
    with pytest.raises(ValueError, match="sets/DICM twice"):
        read_test_sets(tmp_path / "a" / "sets", tmp_path / "b" / "sets")
