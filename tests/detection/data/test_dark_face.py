from pathlib import Path

import pytest
from PIL import Image

import detection.detectors.ultralytics  # noqa: F401 - keeps ultralytics, where a test imports it, off the network
from detection import (
    read_dark_face,
    read_dataset,
)


class TestDarkFace:
    @pytest.fixture
    def root(self, tmp_path: Path) -> Path:
        for folder in ("image", "label"):
            (tmp_path / folder).mkdir()
        for name, text in {
            "1.png": "2\n10 20 30 40\n0 0 5 5\n",
            "2.png": "0\n",
            "3.png": "1\n-3 90 9 120\n",
        }.items():
            Image.new("RGB", (200, 100)).save(tmp_path / "image" / name)
            (tmp_path / "label" / name).with_suffix(".txt").write_text(text)
        return tmp_path

    def test_faces(self, root: Path) -> None:
        data = read_dataset(root)
        assert data.classes == ("face",)
        assert [sample.name for sample in data.samples] == ["1.png", "2.png", "3.png"]
        first, second, third = data.samples
        assert first.boxes.tolist() == [[10, 20, 30, 40], [0, 0, 5, 5]]
        assert first.labels.tolist() == [0, 0]
        assert first.light == "night"
        assert first.load().shape == (100, 200, 3)
        assert second.boxes.shape == (0, 4)
        assert third.boxes.tolist() == [[0, 90, 9, 100]]
        assert data.faults == ("3.png: cut 1 of 1 boxes, as the image measures 200×100 pixels",)

    def test_faults(self, root: Path) -> None:
        (root / "label" / "1.txt").unlink()
        (root / "image" / "3.png").write_bytes(b"no image")
        texts = {
            "4": "",
            "5": "2\n1 1 9 9\n",
            "6": "1\n1 1 9\n",
            "7": "1\n1 1 9 inf\n",
            "8": "one\n1 1 9 9\n",
        }
        for name, text in texts.items():
            Image.new("RGB", (200, 100)).save(root / "image" / f"{name}.png")
            (root / "label" / f"{name}.txt").write_text(text)
        (root / "label" / "9.txt").write_text("0\n")
        data = read_dark_face(root)
        assert [sample.name for sample in data.samples] == ["2.png"]
        assert [fault.partition(":")[0] for fault in data.faults] == [
            "label/9.txt",
            "1.png",
            "3.png",
            "4.png",
            "5.png",
            "6.png",
            "7.png",
            "8.png",
        ]
        assert "but got '2' and 1 lines" in data.faults[4]
        with pytest.raises(FileNotFoundError, match="Expected images"):
            read_dark_face(root / "image")
