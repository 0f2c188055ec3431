from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from detection import Dataset, ExDark, darken, read_dataset, sample_set, write_darkened, write_yolo
from glare.data.degrade import LEVELS, srgb_to_linear


@pytest.fixture
def data(exdark: Any) -> Dataset:
    exdark.add("Cat/a.jpg", "Cat 1 3 21 10", "People 5 5 11 20", listed="6 3 1 3")
    exdark.add("Dog/b.png", listed="9 1 2 3")
    return ExDark(exdark.root, "test").replace(note="made up")


def stamps(folder: Path) -> dict[Path, int]:
    return {file: file.stat().st_mtime_ns for file in folder.rglob("*.png")}


def test_the_same_as_when_it_is_loaded(data: Dataset, tmp_path: Path) -> None:
    lazy = darken(data, "mild", "extreme", seed=4)
    written = write_darkened(data, tmp_path / "night", "mild", "extreme", seed=4)
    (tmp_path / "night").rename(tmp_path / "moved")
    again = read_dataset(tmp_path / "moved")
    assert len(written) == len(again) == 4
    assert (again.note, again.classes, written.faults) == ("made up", data.classes, ())
    for one, other in zip(lazy.samples, again.samples, strict=True):
        assert (other.name, other.light, other.place, other.category) == (
            one.name,
            one.light,
            one.place,
            one.category,
        )
        assert np.array_equal(other.boxes, one.boxes)
        assert np.array_equal(other.labels, one.labels)
        assert np.array_equal(other.load(), one.load())
        assert one.reference is not None
        assert other.reference is not None
        assert np.array_equal(other.reference(), one.reference())
    assert {sample.path for sample in again.samples} | {
        tmp_path / "moved" / "images" / "clean" / name for name in ("Cat/a.jpg.png", "Dog/b.png")
    } == stamps(tmp_path / "moved").keys()


def test_goes_on_where_it_was(data: Dataset, tmp_path: Path) -> None:
    write_darkened(data, tmp_path, "mild", "dark")
    before = stamps(tmp_path / "images")
    lost = tmp_path / "images" / "dark" / "Cat" / "a.jpg.png"
    lost.write_bytes(lost.read_bytes()[:20])
    again = write_darkened(data, tmp_path, "mild", "dark")
    after = stamps(tmp_path / "images")
    assert [file for file in before if after[file] != before[file]] == [lost]
    assert np.array_equal(again.samples[1].load(), darken(data, "dark").samples[0].load())

    # Another level adds to what is there; the annotations are those of the last call.
    more = write_darkened(data, tmp_path, "extreme")
    assert {sample.light for sample in more.samples} == {"extreme"}
    assert before.keys() < stamps(tmp_path / "images").keys()


def test_nothing_made_from_something_else_is_kept(data: Dataset, tmp_path: Path) -> None:
    write_darkened(data, tmp_path, "dark")
    before = stamps(tmp_path / "images")
    night = write_darkened(data, tmp_path, "dark", seed=1)
    assert np.array_equal(night.samples[0].load(), darken(data, "dark", seed=1).samples[0].load())
    after = stamps(tmp_path / "images")
    assert {file.parts[-3] for file in before if before[file] != after[file]} == {
        "dark"
    }  # the clean ones are kept

    cat, dog = data.samples
    assert cat.path is not None
    assert dog.path is not None
    cat.path.write_bytes(dog.path.read_bytes())
    night = write_darkened(data, tmp_path, "dark", seed=1)
    assert night.samples[0].reference is not None
    assert np.array_equal(night.samples[0].reference(), dog.load())
    assert np.array_equal(night.samples[0].load(), darken(data, "dark", seed=1).samples[0].load())


def test_what_cannot_be_read_is_listed(data: Dataset, tmp_path: Path) -> None:
    cat = data.samples[0]
    assert cat.path is not None
    cat.path.write_bytes(cat.path.read_bytes()[:400])
    night = write_darkened(data.replace(faults=("before",)), tmp_path, "mild", "dark")
    assert [(sample.name, sample.light) for sample in night.samples] == [
        ("Dog/b.png", "mild"),
        ("Dog/b.png", "dark"),
    ]
    assert night.faults[0] == "before"
    assert [fault.partition(":")[0] for fault in night.faults[1:]] == ["Cat/a.jpg"]
    assert not list(tmp_path.rglob("images/*/Cat/*"))


def test_one_light_can_be_trained_on(data: Dataset, tmp_path: Path) -> None:
    night = write_darkened(data, tmp_path / "night", "dark")
    trained_on = write_yolo(night, tmp_path / "yolo")
    assert [sample.name for sample in trained_on.samples] == ["Cat/a.png", "Dog/b.png"]
    for one, other in zip(night.samples, trained_on.samples, strict=True):
        assert np.array_equal(other.load(), one.load())


def test_errors(data: Dataset, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="mild, dark, extreme but got 'dusk'"):
        write_darkened(data, tmp_path / "night", "dusk")
    with pytest.raises(ValueError, match="at least one light level"):
        write_darkened(data, tmp_path / "night")
    with pytest.raises(ValueError, match=r"different names but got cat/a\.jpg\.png twice"):
        write_darkened(darken(data, "mild", "dark"), tmp_path / "night", "dark")
    outside = data.replace(samples=(replace(data.samples[0], name="../a.jpg"),))
    with pytest.raises(ValueError, match="names of files below a folder"):
        write_darkened(outside, tmp_path / "night", "dark")
    assert not (tmp_path / "night").exists()


def light(image: np.ndarray) -> float:
    return srgb_to_linear(torch.tensor(image).double() / 255).mean().item()


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

    def test_several_draws(self) -> None:
        clean = sample_set()
        cat = clean.replace(samples=clean.samples[3:4], left_out=1)
        both = darken(cat, "dark", "mild", seed=4, draws=2)
        assert [(s.light, s.draw) for s in both.samples] == [
            ("dark", 0),
            ("dark", 1),
            ("mild", 0),
            ("mild", 1),
        ]
        assert both.left_out == 4
        assert {sample.scene for sample in both.samples} == {cat.samples[0].scene}
        for draw in (0, 1):
            alone = darken(cat, "dark", seed=4 + draw).samples[0]
            assert np.array_equal(both.samples[draw].load(), alone.load())
        assert not np.array_equal(both.samples[0].load(), both.samples[1].load())

    def test_errors(self) -> None:
        with pytest.raises(ValueError, match="`draws` to be positive but got 0"):
            darken(sample_set(), "dark", draws=0)
        with pytest.raises(ValueError, match="mild, dark, extreme but got 'dusk'"):
            darken(sample_set(), "dusk")
        with pytest.raises(ValueError, match="at least one light level"):
            darken(sample_set())
