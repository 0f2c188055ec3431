import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.models import get_model

from detection import COCO_CLASSES, Dataset, Detector, TorchvisionDetector, detector, evaluate, sample_set
from detection.boxes import class_map
from detection.enhancers import raw

NAME = "fasterrcnn_mobilenet_v3_large_320_fpn"


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights of the real model, whose class scores say dog wherever it looks."""
    torch.manual_seed(0)
    model = get_model(NAME, weights=None, weights_backbone=None, num_classes=91)
    with torch.no_grad():
        model.roi_heads.box_predictor.cls_score.bias[18] = 10  # dog in torchvision's numbering
    file = tmp_path_factory.mktemp("weights") / "random.pth"
    torch.save(model.state_dict(), file)
    return file


class TestTorchvision:
    def test_detects(self, weights: Path) -> None:
        images = [sample.load() for sample in sample_set().samples[3:5]]
        dogs = detector(NAME, weights=weights)
        assert isinstance(dogs, Detector)
        for image, found in zip(images, dogs(images), strict=True):
            assert len(found) > 0
            assert {dogs.names[label] for label in found.labels} == {"dog"}
            assert (found.scores > 0.9).all()
            assert (found.boxes >= 0).all()
            assert (found.boxes[:, [0, 2]] <= image.shape[1]).all()
            assert (found.boxes[:, [1, 3]] <= image.shape[0]).all()

    def test_all_coco_classes_are_known_by_name(self, weights: Path) -> None:
        names = detector(NAME, weights=weights).names
        assert len(names) == 91
        assert (class_map(COCO_CLASSES, names) >= 0).all()

    def test_in_the_harness(self, weights: Path) -> None:
        cat_and_coffee = Dataset(sample_set().samples[3:5])
        table = evaluate(cat_and_coffee, detector(NAME, weights=weights), {"raw": raw})
        assert table["mAP50"].tolist() == [0.0]  # dogs only, and there is none

    def test_wrong_weights(self, weights: Path, tmp_path: Path) -> None:
        state = torch.load(weights, weights_only=True)
        state.pop("roi_heads.box_predictor.cls_score.bias")
        torch.save(state, tmp_path / "short.pth")
        with pytest.raises(ValueError, match=r"Expected weights of \w+ at .* but got stuck: RuntimeError"):
            TorchvisionDetector(NAME, weights=tmp_path / "short.pth")

    def test_weights_are_for_torchvision(self, weights: Path) -> None:
        with pytest.raises(ValueError, match="detector of torchvision but got 'yolo26n-exdark'"):
            detector(weights=weights)


class TestIdentity:
    def test_weights_in_the_name(self, weights: Path) -> None:
        named, given = detector(f"{NAME}={weights}"), detector(NAME, weights=weights)
        assert named.identity == given.identity

    def test_changes_with_the_weights(self, weights: Path, tmp_path: Path) -> None:
        state = torch.load(weights, weights_only=True)
        state["roi_heads.box_predictor.cls_score.bias"][18] += 1
        torch.save(state, tmp_path / "other.pth")
        assert (
            detector(f"{NAME}={tmp_path / 'other.pth'}").identity != detector(NAME, weights=weights).identity
        )

    def test_of_the_built_in(self) -> None:
        first, second = detector(), detector()
        image = sample_set().samples[3].load()
        first([image])  # ultralytics changes the network then
        assert first.identity == second.identity == detector().identity


class TestYours:
    @pytest.fixture
    def module(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
        (tmp_path / "a_detector_of_ours.py").write_text(
            "import numpy as np\n"
            "from detection import Detections\n"
            "class Corner:\n"
            "    names = ('person',)\n"
            "    def __call__(self, images):\n"
            "        return [Detections(np.array([[0., 0, 9, 9]]), np.ones(1), np.array([0])) for _ in images]\n"
            "class Versioned(Corner):\n"
            "    identity = 'corner 2'\n"
            "def number():\n"
            "    return 3\n"
        )
        monkeypatch.syspath_prepend(tmp_path)
        yield "a_detector_of_ours"
        sys.modules.pop("a_detector_of_ours", None)

    def test_is_called_and_known_by_its_source(self, module: str, tmp_path: Path) -> None:
        corner = detector(f"{module}:Corner")
        assert isinstance(corner, Detector)
        assert corner.names == ("person",)
        assert corner([np.zeros((20, 20, 3), np.uint8)])[0].boxes.tolist() == [[0, 0, 9, 9]]
        with (tmp_path / f"{module}.py").open("a") as file:
            file.write("# another thought\n")
        assert detector(f"{module}:Corner").identity != corner.identity
        assert detector(f"{module}:Versioned").identity == "corner 2"

    def test_mistakes(self, module: str) -> None:
        with pytest.raises(ValueError, match="to return a Detector but got int"):
            detector(f"{module}:number")
        with pytest.raises(ValueError, match="callable 'missing' but got None"):
            detector(f"{module}:missing")
        with pytest.raises(ModuleNotFoundError, match="no_such_module"):
            detector("no_such_module:detect")


class TestProtocol:
    def test_any_object_will_do(self) -> None:
        class Own:
            names = ("person",)

            def __call__(self, images: list[np.ndarray]) -> list[object]:
                return []

        assert isinstance(Own(), Detector)
        assert not isinstance(object(), Detector)

    def test_detection_imports_without_ultralytics(self) -> None:
        import subprocess

        code = "import sys, detection; assert 'ultralytics' not in sys.modules, 'imported'"
        subprocess.run([sys.executable, "-c", code], check=True)
