from pathlib import Path

import pytest

from detection import read_dataset, sample_set, write_coco, write_darkened, write_yolo

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
    with pytest.raises(FileNotFoundError, match="there is neither"):
        read_dataset(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="Expected images"):
        read_dataset(tmp_path)
    (tmp_path / "annotations.json").write_text("{}")
    with pytest.raises(ValueError, match="`split` with ExDark or YOLO's layout alone"):
        read_dataset(tmp_path, split="val")
