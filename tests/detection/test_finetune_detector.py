import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from detection import EXDARK_CLASSES, sample_set
from detection.yolo import built_in

ROOT = Path(__file__).parents[2]
YOLO26N = ROOT.parent / "shared" / "weights" / "yolo26n.pt"


@pytest.mark.skipif(not YOLO26N.is_file(), reason="needs ../shared/weights/yolo26n.pt to start from")
def test_script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = tmp_path / "photographs"
    for folder in ("images", "labels"):
        (data / folder).mkdir(parents=True)
    for number, sample in enumerate(sample_set().samples[3:5], 2):  # a cat to train on, a cup to measure on
        Image.fromarray(sample.load()).save(data / "images" / f"{number:012d}.png")
        label = {2: 15, 3: 41}[number]
        (data / "labels" / f"{number:012d}.txt").write_text(f"{label} 0.5 0.5 0.8 0.8\n")
    spec = importlib.util.spec_from_file_location(
        "finetune_detector", ROOT / "experiments" / "finetune_detector.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    arguments = (
        f"--weights {YOLO26N} --data {data} --epochs 1 --work {tmp_path / 'work'} --out {tmp_path / 'out'}"
    )
    monkeypatch.setattr(sys, "argv", ["finetune_detector.py", *arguments.split()])
    module.main()

    assert built_in(weights=tmp_path / "out").names == EXDARK_CLASSES
    labels = sorted((tmp_path / "work" / "data" / "labels").glob("*.txt"))
    assert [file.stem for file in labels] == ["000000000002"]  # the odd number is not trained on
    values = np.loadtxt(labels[0])
    np.testing.assert_allclose(values, [EXDARK_CLASSES.index("Cat"), 0.5, 0.5, 0.8, 0.8], atol=1e-5)
    card = (tmp_path / "out" / "README.md").read_text()
    assert "--weights yolo26n.pt --data photographs --epochs 1 --lr 2e-05 --seed 0" in card
    assert "1 clean photographs with 1 boxes" in card
    assert str(tmp_path) not in card
    assert str(tmp_path) not in (tmp_path / "out" / "yolo26n-exdark.yaml").read_text()
