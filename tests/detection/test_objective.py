from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from detection import COCO_CLASSES, EXDARK_CLASSES, Dataset, Sample, sample_set
from detection.data.core import Pixels
from detection.objective import SIDE, DetectionLoss, of

pytest.importorskip("ultralytics")

BOX = [60.0, 40, 200, 160]


def red_box() -> Pixels:
    image = np.zeros((300, 420, 3), np.uint8)
    image[40:160, 60:200, 0] = 250
    return image


def labelled(load: Callable[[], Pixels], boxes: list[list[float]], labels: list[int]) -> Dataset:
    crowd = np.zeros(len(labels), bool)
    return Dataset((Sample("a", load, np.array(boxes), np.array(labels), crowd),), COCO_CLASSES)


def no_loss(images: Tensor, classes: list[Tensor], boxes: list[Tensor]) -> Tensor:
    return images.sum()


@pytest.fixture
def seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built-in detector as a file of ultralytics'."""
    from detection.detectors.ultralytics import WEIGHTS, YOLO, built_in

    yolo = YOLO(str(WEIGHTS / "yolo26n-exdark.yaml"), task="detect")
    yolo.model = built_in().network
    file = tmp_path_factory.mktemp("yolo") / "built-in.pt"
    yolo.save(file)
    return file


@pytest.mark.usefixtures("seeded")
class TestWindow:
    def test_boxes_lie_where_the_objects_are(self) -> None:
        dog, unknown = COCO_CLASSES.index("dog"), COCO_CLASSES.index("cat")
        data = labelled(red_box, [BOX, [0, 0, 300, 300]], [dog, unknown])
        objective = DetectionLoss(no_loss, ["bus", "dog"], data)
        shares = []
        for _ in range(30):
            window, classes, boxes = objective.window(data.samples[0])
            assert window.shape == (3, SIDE, SIDE)
            red = window[0] > 0.5
            if not len(boxes):  # less than enough of it is inside
                continue
            assert classes.tolist() == [1]  # in the detector's numbers; it knows no cat
            rows, columns = torch.nonzero(red, as_tuple=True)
            found = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            torch.testing.assert_close(boxes[0], torch.stack(found).float(), rtol=0, atol=1.5)
            shares.append(float(red.float().mean()))
        assert len(shares) > 15
        assert max(shares) > 1.3 * min(shares)  # near and far

    def test_small_images_fill_it(self) -> None:
        data = labelled(
            lambda: red_box()[::4, ::4].copy(), [[c / 4 for c in BOX]], [COCO_CLASSES.index("dog")]
        )
        window, _, _ = DetectionLoss(no_loss, ["dog"], data).window(data.samples[0])
        assert window.shape == (3, SIDE, SIDE)

    def test_a_seed_draws_the_same_nights(self) -> None:
        data = labelled(red_box, [BOX], [COCO_CLASSES.index("dog")])
        objective = DetectionLoss(no_loss, ["dog"], data)
        seen: list[Tensor] = []
        for seed in (1, 1, 2):
            torch.manual_seed(seed)
            objective(lambda low: seen.append(low) or low)
        assert torch.equal(seen[0], seen[1])
        assert not torch.equal(seen[0], seen[2])
        assert seen[0].mean() < 0.5 * (250 / 255 / 3)  # at night


def test_right_boxes_cost_less_than_wrong_ones_and_the_gradient_goes_back(checkpoint: Path) -> None:
    from detection.detectors.ultralytics import training_loss

    loss, names = training_loss(checkpoint)
    assert names == list(EXDARK_CLASSES)
    cat = next(sample for sample in sample_set().samples if sample.name == "chelsea.png")
    image = torch.from_numpy(cat.load()[:288, :448].copy()).movedim(2, 0)[None].float() / 255
    image.requires_grad_()
    classes, boxes = [torch.from_numpy(cat.labels)], [torch.from_numpy(cat.boxes).float().clamp(max=288)]
    right = loss(image, classes, boxes)
    right.backward()
    assert image.grad is not None
    assert image.grad.abs().mean() > 0
    with torch.no_grad():
        other_class = loss(image, [(classes[0] + 1) % len(names)], boxes)
        elsewhere = loss(image, classes, [boxes[0] * 0.3])
        four, eight = (loss(image.expand(n, -1, -1, -1), classes * n, boxes * n) for n in (4, 8))
    assert float(right.detach()) < min(float(other_class), float(elsewhere))
    torch.testing.assert_close(four, eight, rtol=1e-4, atol=0)  # whatever the size of the batch


def test_the_detector_stays_as_it_is(checkpoint: Path, tmp_path: Path) -> None:
    for name in ("images", "labels"):
        (tmp_path / name).mkdir()
    Image.fromarray(red_box()).save(tmp_path / "images/a.png")
    (tmp_path / "labels/a.txt").write_text(f"{COCO_CLASSES.index('dog')} 0.31 0.33 0.33 0.4\n")
    objective = of(f"{checkpoint}={tmp_path}")
    gain = torch.tensor(1.0, requires_grad=True)
    values = []
    for _ in range(2):
        torch.manual_seed(0)
        loss = objective(lambda low: low * gain)
        loss.backward()
        values.append(float(loss.detach()))
    assert values[0] == values[1] > 0
    assert gain.grad is not None
    assert gain.grad.abs() > 0


def test_errors(checkpoint: Path) -> None:
    with pytest.raises(ValueError, match=r"CHECKPOINT=DATA, .* but got 'yolo26n.pt'"):
        of("yolo26n.pt")
    with pytest.raises(ValueError, match="a class that the detector knows"):
        DetectionLoss(no_loss, ["spoon"], labelled(red_box, [BOX], [COCO_CLASSES.index("dog")]))
