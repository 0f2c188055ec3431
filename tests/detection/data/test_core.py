from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader
from torchvision.transforms import v2

from detection import COCO_CLASSES, EXDARK_CLASSES, Dataset, Detections, sample_set
from detection.data.classes import class_map
from detection.data.core import load_image
from glare.data.degrade import srgb_to_linear


def light(image: np.ndarray) -> float:
    return srgb_to_linear(torch.tensor(image).double() / 255).mean().item()


class TestLoadImage:
    def test_exif_orientation_is_not_applied(self, tmp_path: Path) -> None:
        exif = Image.Exif()
        exif[0x0112] = 6  # turn by 90° to view
        Image.new("RGB", (30, 20)).save(tmp_path / "turned.jpg", exif=exif)
        assert load_image(tmp_path / "turned.jpg").shape == (20, 30, 3)

    def test_what_is_no_image(self, tmp_path: Path) -> None:
        import ultralytics  # noqa: F401 - its import changes how Pillow fails

        (tmp_path / "text.jpg").write_text("no image")
        with pytest.raises(OSError, match=r"cannot identify image file .*text\.jpg"):
            load_image(tmp_path / "text.jpg")
        with pytest.raises(FileNotFoundError):
            load_image(tmp_path / "missing.jpg")
        Image.effect_noise((512, 512), 50).save(tmp_path / "whole.png")
        whole = (tmp_path / "whole.png").read_bytes()
        (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
        with pytest.raises(OSError, match="truncated"):
            load_image(tmp_path / "cut.png")
        second = whole.index(b"IDAT", whole.index(b"IDAT") + 4)
        (tmp_path / "broken.png").write_bytes(whole[:second] + b"\1\2\3\4" + whole[second + 4 :])
        with pytest.raises(OSError, match=r"cannot decode .*broken\.png: broken PNG file"):
            load_image(tmp_path / "broken.png")

    def test_grey_becomes_rgb(self, tmp_path: Path) -> None:
        Image.new("L", (4, 4), 7).save(tmp_path / "grey.png")
        assert (load_image(tmp_path / "grey.png") == np.full((4, 4, 3), 7)).all()


class TestDetections:
    @pytest.mark.parametrize("bad", [float("nan"), float("inf")])
    def test_what_is_not_finite_was_not_found(self, bad: float) -> None:
        for box, score in ((bad, 0.5), (1.0, bad)):
            with pytest.raises(ValueError, match="finite but got NaN or infinity"):
                Detections(np.array([[0.0, 0, box, 1]]), np.array([score]), np.array([0]))

    def test_relabel_drops_what_the_target_does_not_know(self) -> None:
        found = Detections(
            np.array([[0.0, 0, 1, 1], [0, 0, 2, 2]]), np.array([0.9, 0.8]), np.array([22, 0], dtype=np.int64)
        )
        kept = found.relabel(class_map(COCO_CLASSES, EXDARK_CLASSES))  # a zebra and a person
        assert kept.boxes.tolist() == [[0, 0, 2, 2]]
        assert kept.scores.tolist() == [0.8]
        assert kept.labels.tolist() == [EXDARK_CLASSES.index("People")]

    def test_shapes_are_checked(self) -> None:
        with pytest.raises(ValueError, match=r"\(N, 4\), \(N,\) and \(N,\)"):
            Detections(np.zeros((2, 4)), np.zeros(1), np.zeros(2, dtype=np.int64))


class TestDataset:
    def test_in_a_data_loader(self) -> None:
        loader = DataLoader(Dataset(sample_set().samples[3:5]), batch_size=2, collate_fn=list, num_workers=1)
        (batch,) = loader
        for (image, target), sample in zip(batch, sample_set().samples[3:5], strict=True):
            assert torch.equal(image, torch.tensor(sample.load()).permute(2, 0, 1))
            np.testing.assert_allclose(target["boxes"], sample.boxes)
            assert target["labels"].tolist() == sample.labels.tolist()
            assert target["iscrowd"].tolist() == sample.crowd.tolist()

    def test_through_a_transform(self) -> None:
        image, target = Dataset(sample_set().samples[3:4])[0]
        flipped, moved = v2.RandomHorizontalFlip(p=1.0)(image, target)
        assert torch.equal(flipped, image.flip(-1))
        assert torch.equal(moved["boxes"][:, 0], image.shape[-1] - target["boxes"][:, 2])

    def test_without_boxes_and_beyond_the_end(self) -> None:
        data = Dataset(
            (replace(sample_set().samples[3], boxes=np.zeros((0, 4)), labels=np.zeros(0, np.int64)),)
        )
        assert data[0][1]["boxes"].shape == (0, 4)
        with pytest.raises(IndexError):
            data[1]
