import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from PIL import Image

from detection import EXDARK_CLASSES, darken, enhancer, evaluate, read_yolo, sample_set, write_yolo
from detection.data.core import Dataset
from detection.detectors.ultralytics import YOLO, built_in
from detection.enhancers import gamma
from detection.finetune import enhanced_set, half, mean_over_seeds, training_and_testing
from tests.scripts import load_script

ROOT = Path(__file__).parents[2]
YOLO26N = ROOT.parent / "shared" / "weights" / "yolo26n.pt"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    return load_script("finetune_detector")


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


def test_halves(photographs: Path) -> None:
    data = read_yolo(photographs)
    assert [s.name for s in half(data, even=True).samples] == ["0002.png"]
    assert [s.name for s in half(data, even=False).samples] == ["0003.png"]


def test_enhanced_set(photographs: Path, tmp_path: Path) -> None:
    data = darken(read_yolo(photographs), "mild", "dark")  # two images of each name
    written = write_yolo(enhanced_set(data, "gamma", gamma), tmp_path / "written")
    assert [s.name for s in written.samples] == [
        f"{light}/{name}.png" for light in ("dark", "mild") for name in ("0002", "0003")
    ]
    brighter = {f"{s.light}/{s.name}": gamma(s.load()) for s in data.samples}
    for sample in written.samples:
        assert np.array_equal(sample.load(), brighter[sample.name])


def test_enhancer_that_changes_the_size(photographs: Path, tmp_path: Path) -> None:
    data = enhanced_set(read_yolo(photographs), "half", lambda image: image[::2, ::2])
    with pytest.raises(ValueError, match="Expected enhancer `half` to return"):
        data.samples[0].load()


def test_splits_of_a_data_yaml(tmp_path: Path) -> None:
    for name in ("train/a", "train/b", "val/c"):
        for kind in ("images", "labels"):
            (tmp_path / kind / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20, 10)).save(tmp_path / "images" / f"{name}.png")
    described = "train: images/train\nval: images/val\nnames: [dog]\n"
    (tmp_path / "data.yaml").write_text(described)
    training, testing = training_and_testing(tmp_path)
    assert [sample.name for sample in training.samples] == ["a.png", "b.png"]
    assert [sample.name for sample in testing.samples] == ["c.png"]


def test_nothing_is_measured_on_what_was_trained_on(tmp_path: Path) -> None:
    for name in ("train/a", "train/b", "val/c"):
        for kind in ("images", "labels"):
            (tmp_path / kind / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20, 10)).save(tmp_path / "images" / f"{name}.png")
    file = tmp_path / "data.yaml"
    file.write_text("train: [images/train, images/val]\nval: images/val\nnames: [dog]\n")
    with pytest.raises(ValueError, match=r"1 are in both, such as c\.png"):
        training_and_testing(tmp_path)
    file.write_text("train: images/train\nval: images/gone\nnames: [dog]\n")
    with pytest.raises(FileNotFoundError, match="there are none at images/gone"):
        training_and_testing(tmp_path)
    file.write_text("train: train.txt\nval: val.txt\nnames: [dog]\n")
    (tmp_path / "train.txt").write_text("./images/train/a.png\n./images/train/b.png\n")
    (tmp_path / "val.txt").write_text("./images/val/c.png\n")
    training, testing = training_and_testing(file)
    assert [sample.name for sample in training.samples] == ["a.png", "b.png"]
    assert [sample.name for sample in testing.samples] == ["c.png"]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A YOLO folder of six photographs, 96 pixels wide."""
    root = tmp_path_factory.mktemp("small") / "set"
    write_yolo(sample_set(), root)
    for file in (root / "images").iterdir():
        Image.open(file).resize((96, 64)).save(file)
    return root


class TestProtocol:
    def test_raw_and_enhanced(
        self, script: ModuleType, small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        out = tmp_path / "out"
        arguments = f"--data {small} --enhancers raw,glare --levels mild --epochs 1 --imgsz 64 --batch 5"
        script.main([*arguments.split(), "--seed", "3", "--device", "cpu", "--out", str(out)])
        table = pd.read_csv(out / "results.csv")
        assert table[["light", "enhancer", "seed"]].to_numpy().tolist() == [
            ["mild", "raw", 3],
            ["mild", "glare", 3],
        ]
        # Behind the same enhancer: of six images the fifth is held out, and its PSNR is the enhancer's.
        held_out = read_yolo(small)
        held_out = darken(Dataset(held_out.samples[4:5]), "mild")
        expected = evaluate(held_out, {"raw": enhancer("raw"), "glare": enhancer("glare")}, built_in())
        np.testing.assert_allclose(table["PSNR"], expected["PSNR"].round(2))
        assert (table["images"] == 1).all()
        weights = []
        for name in ("raw-3", "glare-3"):
            assert yaml.safe_load((out / name / "args.yaml").read_text())["seed"] == 3
            weights.append(YOLO(out / name / "weights" / "last.pt").model.state_dict()["model.0.conv.weight"])
        assert not torch.equal(*weights)  # of two trainings on different images
        printed = capsys.readouterr().out
        assert "Trained on 5 images with" in printed
        assert "One training per row, seed 3" in printed
        assert "| mild | glare |" in (out / "results.md").read_text()

    def test_mean_and_spread(self) -> None:
        rows = [("raw", 0, 0.2, 3), ("glare", 0, 0.5, 3), ("raw", 1, 0.4, 3), ("glare", 1, 0.5, 3)]
        table = pd.DataFrame(rows, columns=["enhancer", "seed", "mAP50", "boxes"])
        table = table.assign(**{"light": "dark", "mAP50-95": 0.1, "PSNR": np.nan, "images": 2})
        summary = mean_over_seeds(table).set_index("enhancer")
        assert list(summary.index) == ["raw", "glare"]
        np.testing.assert_allclose(summary["mAP50"], [0.3, 0.5])
        np.testing.assert_allclose(summary["mAP50 std"], [np.sqrt(0.02), 0], atol=1e-4)
        np.testing.assert_allclose(summary["mAP50-95 std"], 0)
        assert summary["boxes"].tolist() == [3, 3]
        assert not any("std" in column for column in mean_over_seeds(table[table["seed"] == 0]))

    def test_own_test_set(self, small: Path, photographs: Path) -> None:
        training, testing = training_and_testing(small, test=photographs)
        assert len(training) == 6
        assert [sample.name for sample in testing.samples] == ["0002.png", "0003.png"]

    def test_splits_of_exdark(self, exdark: Any, tmp_path: Path) -> None:
        for number, name in enumerate(("Cat/one.jpg", "Cat/two.jpg", "Cat/three.jpg"), 1):
            exdark.add(name, "Cat 1 2 20 10", listed=f"6 1 1 {number}")  # a train, a val and a test image
        assert [[s.name for s in part.samples] for part in training_and_testing(exdark.root)] == [
            ["Cat/one.jpg"],
            ["Cat/three.jpg"],
        ]
        (tmp_path / "own.txt").write_text("one.jpg\nthree.jpg\n")
        split = (str(tmp_path / "own.txt"), "val")
        assert [len(part) for part in training_and_testing(exdark.root, split=split)] == [2, 1]

    @pytest.mark.parametrize(
        ("more", "problem"),
        [
            ("--enhancers raw,nothing", "nothing"),
            ("--enhancers raw --seeds 0", "--seeds to be at least 1 but got 0"),
            ("--enhancers raw --levels pitch", "pitch"),
            ("--enhancers raw --weights nowhere.pt", "nowhere.pt"),
        ],
    )
    def test_what_cannot_be(self, script: ModuleType, small: Path, more: str, problem: str) -> None:
        with pytest.raises(SystemExit, match=problem):
            script.main(["--data", str(small), *more.split()])

    def test_neither_of_the_two(self, script: ModuleType, small: Path) -> None:
        with pytest.raises(SystemExit):
            script.main(["--data", str(small)])


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
