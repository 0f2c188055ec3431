import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import yaml
from PIL import Image

from detection import EXDARK_CLASSES, read_yolo, sample_set
from detection.yolo import built_in

ROOT = Path(__file__).parents[2]
YOLO26N = ROOT.parent / "shared" / "weights" / "yolo26n.pt"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    file = ROOT / "experiments" / "finetune_detector.py"
    spec = importlib.util.spec_from_file_location("finetune_detector", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """A YOLO folder in COCO's numbering: a cat with an even number, a cup with an odd one."""
    data = tmp_path / "photographs"
    for folder in ("images", "labels"):
        (data / folder).mkdir(parents=True)
    for (name, label), sample in zip(
        {"0002": 15, "0003": 41}.items(), sample_set().samples[3:5], strict=True
    ):
        Image.fromarray(sample.load()).save(data / "images" / f"{name}.png")
        (data / "labels" / f"{name}.txt").write_text(f"{label} 0.5 0.4 0.8 0.6\n")
    return data


def test_halves(script: ModuleType, photographs: Path) -> None:
    data = read_yolo(photographs)
    assert [s.name for s in script.half(data, even=True).samples] == ["0002.png"]
    assert [s.name for s in script.half(data, even=False).samples] == ["0003.png"]


def test_written_set_says_the_same(script: ModuleType, photographs: Path, tmp_path: Path) -> None:
    data = read_yolo(photographs)
    described = script.write_yolo(data, tmp_path / "written")
    assert yaml.safe_load(described.read_text())["names"] == list(EXDARK_CLASSES)
    cat = (tmp_path / "written" / "labels" / "0002.txt").read_text().split()
    assert cat[0] == str(EXDARK_CLASSES.index("Cat"))
    again = read_yolo(tmp_path / "written")  # its data.yaml names the twelve classes
    for one, other in zip(data.samples, again.samples, strict=True):
        np.testing.assert_allclose(other.boxes, one.boxes, atol=0.01)
        assert np.array_equal(other.labels, one.labels)
        assert np.array_equal(other.load(), one.load())


@pytest.mark.skipif(not YOLO26N.is_file(), reason="needs ../shared/weights/yolo26n.pt to start from")
def test_script(
    script: ModuleType, photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = f"--weights {YOLO26N} --data {photographs} --epochs 1 --out {tmp_path / 'out'}"
    monkeypatch.setattr(sys, "argv", ["finetune_detector.py", *arguments.split()])
    script.main()
    assert built_in(weights=tmp_path / "out").names == EXDARK_CLASSES
    card = (tmp_path / "out" / "README.md").read_text()
    assert "--weights yolo26n.pt --data photographs --epochs 1 --lr 2e-05 --seed 0" in card
    assert "1 clean photographs with 1 boxes" in card
    for file in ("README.md", "yolo26n-exdark.yaml"):
        assert str(tmp_path) not in (tmp_path / "out" / file).read_text()
