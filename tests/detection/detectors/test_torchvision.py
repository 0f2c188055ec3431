from pathlib import Path

import pytest
import torch
from torchvision.models import get_model

from detection import COCO_CLASSES, Dataset, Detector, TorchvisionDetector, detector, evaluate, sample_set
from detection.data.classes import class_map
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
        table = evaluate(cat_and_coffee, {"raw": raw}, detector(NAME, weights=weights))
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

    def test_settings_are_in_it(self, weights: Path) -> None:
        one = detector(NAME, weights=weights)
        assert isinstance(one, TorchvisionDetector)
        for words in ("320 to 640 pixels", "NMS at an IoU of 0.5", "the best 100 boxes from a score of 0.05"):
            assert words in one.settings
        assert one.settings in one.identity

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
