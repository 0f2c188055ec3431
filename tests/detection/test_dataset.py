from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import skimage.data
import torch
from PIL import Image

from detection import darken, sample_set
from detection.dataset import load_image
from glare.data.degrade import LEVELS, srgb_to_linear


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


class TestDarken:
    def test_exposure_of_each_level(self) -> None:
        photographs = replace(sample_set(), samples=sample_set().samples[2:])
        for sample in darken(photographs, *LEVELS, seed=1).samples:
            assert sample.reference is not None
            # ±33 % of exposure, ±10 % of cast, and some light from noise clipped at black.
            factor = light(sample.load()) / light(sample.reference()) / LEVELS[sample.light]
            assert 0.65 < factor < 1.6

    def test_noise_depends_on_seed_name_and_level_alone(self) -> None:
        clean = sample_set()
        cat = replace(clean, samples=clean.samples[3:4])
        alone = darken(cat, "dark").samples[0].load()
        in_company = next(
            s for s in darken(clean, "mild", "dark").samples if (s.name, s.light) == ("chelsea.png", "dark")
        )
        assert np.array_equal(alone, in_company.load())
        assert np.array_equal(alone, darken(cat, "dark").samples[0].load())
        assert not np.array_equal(alone, darken(cat, "dark", seed=1).samples[0].load())
        renamed = replace(cat, samples=(replace(cat.samples[0], name="another cat"),))
        assert not np.array_equal(alone, darken(renamed, "dark").samples[0].load())
        assert alone.dtype == np.uint8
        assert alone.shape == clean.samples[3].load().shape

    def test_levels_of_a_photograph_follow_each_other(self) -> None:
        dark = darken(sample_set(), "mild", "extreme")
        assert [(s.name, s.light) for s in dark.samples[:4]] == [
            ("bus.jpg", "mild"),
            ("bus.jpg", "extreme"),
            ("zidane.jpg", "mild"),
            ("zidane.jpg", "extreme"),
        ]

    def test_errors(self) -> None:
        with pytest.raises(ValueError, match="mild, dark, extreme but got 'dusk'"):
            darken(sample_set(), "dusk")
        with pytest.raises(ValueError, match="at least one light level"):
            darken(sample_set())


class TestSampleSet:
    def test_six_photographs_with_boxes_inside(self) -> None:
        data = sample_set()
        assert len(data) == 6
        assert "no measurement" in data.note
        for sample in data.samples:
            height, width = sample.load().shape[:2]
            x1, y1, x2, y2 = sample.boxes.T
            assert len(sample.boxes) > 0
            assert (x1 >= 0).all()
            assert (y1 >= 0).all()
            assert (x2 <= width).all()
            assert (y2 <= height).all()
            assert (x2 > x1).all()
            assert (y2 > y1).all()

    def test_what_is_in_them(self) -> None:
        data = sample_set()
        names = {s.name: sorted(data.classes[label] for label in s.labels) for s in data.samples}
        assert names["bus.jpg"] == ["Bicycle", "Bus", "People", "People", "People", "People"]
        assert names["chelsea.png"] == ["Cat"]
        assert names["coffee.png"] == ["Cup", "Table"]
        assert names["motorcycle_left.png"] == ["Bicycle", "Bottle", "Bottle", "Motorbike"]

    def test_photographs_are_the_packages_own(self) -> None:
        loaded = {s.name: s.load() for s in sample_set().samples}
        assert np.array_equal(loaded["astronaut.png"], skimage.data.astronaut())
        assert np.array_equal(loaded["motorcycle_left.png"], skimage.data.stereo_motorcycle()[0])
