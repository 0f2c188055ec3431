import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from detection import COCO_CLASSES, EXDARK_CLASSES, detector, evaluate, sample_set
from detection.detectors.ultralytics import (
    WEIGHTS,
    YOLO,
    YOLODetector,
    built_in,
    keep_exdark_classes,
    train,
)
from detection.enhancers import raw


def eighty_classes() -> Any:
    """The architecture of yolo26n with random weights."""
    torch.manual_seed(0)
    return YOLO(str(WEIGHTS / "yolo26n-exdark.yaml"), task="detect").model


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    for file in WEIGHTS.glob("yolo26n-exdark.*"):
        shutil.copy(file, tmp_path)
    return tmp_path


class TestBuiltIn:
    def test_finds_what_is_in_the_sample_set(self) -> None:
        table = evaluate(sample_set(), {"raw": raw}, detector())
        assert table["mAP50"][0] > 0.6

    def test_one_cat(self) -> None:
        sample = sample_set().samples[3]
        found = built_in()([sample.load()])[0]
        best = found.scores.argmax()
        assert built_in().names == EXDARK_CLASSES
        assert EXDARK_CLASSES[found.labels[best]] == "Cat"
        np.testing.assert_allclose(found.boxes[best], sample.boxes[0], atol=25)

    def test_rgb_and_not_bgr(self) -> None:
        image = sample_set().samples[4].load()
        scores = [built_in()([x])[0].scores.max() for x in (image, np.ascontiguousarray(image[..., ::-1]))]
        assert scores[0] != scores[1]
        direct = YOLO(str(WEIGHTS / "yolo26n-exdark.yaml"), task="detect")
        keep_exdark_classes(direct.model)
        direct.model.load_state_dict(load_file(WEIGHTS / "yolo26n-exdark.safetensors"))
        best = (
            direct.predict(Image.fromarray(image), conf=0.001, nms=False, verbose=False)[0]
            .boxes.conf.max()
            .item()
        )
        assert scores[0] == pytest.approx(best, abs=1e-5)

    def test_the_end_to_end_head_is_asked(self) -> None:
        image = sample_set().samples[0].load()
        yolo = built_in()
        found = yolo([image])[0]
        direct = YOLO(str(WEIGHTS / "yolo26n-exdark.yaml"), task="detect")
        keep_exdark_classes(direct.model)
        direct.model.load_state_dict(load_file(WEIGHTS / "yolo26n-exdark.safetensors"))
        boxes = direct.predict(Image.fromarray(image), conf=0.001, nms=False, max_det=300, verbose=False)[
            0
        ].boxes
        np.testing.assert_allclose(found.scores, boxes.conf.numpy(), atol=1e-5)
        np.testing.assert_allclose(found.boxes, boxes.xyxy.numpy(), atol=1e-2)
        suppressed = direct.predict(Image.fromarray(image), conf=0.001, nms=None, max_det=300, verbose=False)[
            0
        ].boxes
        assert not np.array_equal(suppressed.conf[:10].numpy(), boxes.conf[:10].numpy())  # another head
        for words in ("end-to-end head without NMS", "640 pixels", "rectangle", "float32"):
            assert words in yolo.settings
        assert yolo.settings in yolo.identity

    def test_a_model_without_such_a_head(self) -> None:
        torch.manual_seed(0)
        yolo = YOLODetector(YOLO("yolo11n.yaml", task="detect"))
        assert "NMS at an IoU of 0.7" in yolo.settings
        assert len(yolo([np.zeros((64, 64, 3), np.uint8)])) == 1

    def test_threads_are_the_same_for_every_image(self) -> None:
        yolo, seen = built_in(), []
        before = torch.get_num_threads()
        yolo.network.model[0].register_forward_pre_hook(lambda *_: seen.append(torch.get_num_threads()))
        try:
            torch.set_num_threads(3)
            for _ in range(2):
                yolo([np.full((64, 64, 3), 90, np.uint8)])
            assert torch.get_num_threads() == 3
            assert seen[-2:] == [3, 3]
        finally:
            torch.set_num_threads(before)

    def test_weights_that_are_not_finite(self, weights: Path) -> None:
        file = weights / "yolo26n-exdark.safetensors"
        tensors = load_file(file)
        tensors["model.0.conv.weight"][0] = float("nan")
        save_file(tensors, file)
        with pytest.raises(ValueError, match=r"finite weights but model\.0\.conv\.weight holds NaN"):
            built_in(weights=weights)

    def test_images_do_not_depend_on_their_neighbours(self) -> None:
        images = [sample.load() for sample in sample_set().samples[3:5]]
        yolo = built_in()
        together, alone = yolo(images), [yolo([image])[0] for image in images]
        for one, other in zip(together, alone, strict=True):
            assert np.array_equal(one.boxes, other.boxes)
            assert np.array_equal(one.scores, other.scores)

    def test_missing_and_misshapen_tensors(self, weights: Path) -> None:
        file = weights / "yolo26n-exdark.safetensors"
        tensors = load_file(file)
        name = "model.0.conv.weight"
        for wrong in (None, tensors[name][:1]):
            changed = {k: v for k, v in tensors.items() if k != name} | (
                {} if wrong is None else {name: wrong}
            )
            save_file(changed, file)
            with pytest.raises(RuntimeError, match=name):
                built_in(weights=weights)

    def test_files_are_small_and_no_pickles(self) -> None:
        files = list(WEIGHTS.glob("yolo26n-exdark.*"))
        assert sorted(file.suffix for file in files) == [".safetensors", ".yaml"]
        assert sum(file.stat().st_size for file in files) < 6e6
        assert all(
            t.dtype in (torch.float16, torch.int64)
            for t in load_file(WEIGHTS / "yolo26n-exdark.safetensors").values()
        )


class TestKeepClasses:
    def test_scores_are_the_rows_of_both_heads(self) -> None:
        network = eighty_classes().eval()
        image = torch.rand(1, 3, 64, 64)
        with torch.no_grad():
            before = network(image)[1]
            keep_exdark_classes(network)
            after = network(image)[1]
        rows = [1, 8, 39, 5, 2, 15, 56, 41, 16, 3, 0, 60]
        assert [COCO_CLASSES[row] for row in rows[:3]] == ["bicycle", "boat", "bottle"]
        for head in ("one2many", "one2one"):
            torch.testing.assert_close(after[head]["scores"], before[head]["scores"][:, rows])
            torch.testing.assert_close(after[head]["boxes"], before[head]["boxes"])
        assert tuple(network.names.values()) == EXDARK_CLASSES

    def test_a_head_without_a_second_branch(self) -> None:
        network = YOLO("yolo11n.yaml", task="detect").model.eval()
        image = torch.rand(1, 3, 64, 64)
        with torch.no_grad():
            before = network(image)[1]["scores"]
            keep_exdark_classes(network)
            after = network(image)[1]["scores"]
        torch.testing.assert_close(after, before[:, [1, 8, 39, 5, 2, 15, 56, 41, 16, 3, 0, 60]])

    def test_not_twice(self) -> None:
        network = eighty_classes()
        keep_exdark_classes(network)
        with pytest.raises(ValueError, match="80 classes but got 12"):
            keep_exdark_classes(network)


class TestByName:
    def test_a_path(self, tmp_path: Path) -> None:
        model = YOLO(str(WEIGHTS / "yolo26n-exdark.yaml"), task="detect")
        keep_exdark_classes(model.model)
        model.save(tmp_path / "own.pt")
        own = detector(str(tmp_path / "own.pt"))
        assert isinstance(own, YOLODetector)
        assert own.names == EXDARK_CLASSES

    def test_no_such_file(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match="nothing"):
            detector(str(tmp_path / "nothing.pt"))


class TestFromNetwork:
    def test_finds_the_same(self) -> None:
        image = sample_set().samples[3].load()
        one, other = built_in(), YOLODetector.from_network(built_in().network)
        assert other.names == one.names
        np.testing.assert_array_equal(other([image])[0].boxes, one([image])[0].boxes)

    def test_image_size(self) -> None:
        image, sizes = sample_set().samples[3].load(), []
        for size in (64, 128):
            network = built_in().network
            network.model[0].register_forward_pre_hook(lambda _, inputs: sizes.append(inputs[0].shape[-1]))
            YOLODetector.from_network(network, image_size=size)([image])
        assert set(sizes) == {64, 128}


def test_train(tmp_path: Path) -> None:
    for folder in ("images", "labels"):
        (tmp_path / "data" / folder).mkdir(parents=True)
    for i in range(2):
        Image.new("RGB", (64, 64), (60 * i, 90, 20)).save(tmp_path / f"data/images/{i}.png")
        (tmp_path / f"data/labels/{i}.txt").write_text("10 0.5 0.5 0.4 0.4\n")
    names = ", ".join(EXDARK_CLASSES)
    (tmp_path / "data/data.yaml").write_text(
        f"path: {tmp_path / 'data'}\ntrain: images\nval: images\nnames: [{names}]\n"
    )
    network = eighty_classes()
    keep_exdark_classes(network)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    trained = train(
        network,
        data=str(tmp_path / "data/data.yaml"),
        epochs=1,
        imgsz=64,
        batch=2,
        nbs=2,
        lr0=0.01,
        optimizer="AdamW",
        warmup_epochs=0,
        freeze=10,
        workers=0,
        device="cpu",
        val=False,
        plots=False,
        project=str(tmp_path),
        name="train",
    )
    after = trained.state_dict()
    assert after.keys() == before.keys()
    assert torch.equal(after["model.0.conv.weight"], before["model.0.conv.weight"])  # frozen
    for head in ("cv3", "one2one_cv3"):
        name = f"model.23.{head}.0.2.weight"
        assert after[name].shape[0] == 12
        assert not torch.equal(after[name], before[name])
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
