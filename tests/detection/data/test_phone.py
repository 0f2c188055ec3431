import numpy as np
import pytest
from torch import from_numpy

from detection import darken, sample_set
from detection.data.core import Pixels
from detection.data.phone import noise_deviation, phone
from glare.data.degrade import degrade, generator_for, srgb_to_linear


def flat(*colour: int, height: int = 64, width: int = 96) -> Pixels:
    return np.full((height, width, 3), colour, np.uint8)


def sensor(clean: Pixels, exposure: float) -> Pixels:
    image = from_numpy(clean).movedim(2, 0).float() / 255
    dark = degrade(image, exposure=exposure, generator=generator_for(0))
    pixels: Pixels = (dark * 255).round().byte().movedim(0, 2).numpy()
    return pixels


def test_by_day_colours_are_those_of_the_scene() -> None:
    clean = flat(200, 120, 40)
    taken = phone(clean, 1.0, generator_for(0))
    assert (taken.dtype, taken.shape) == (np.uint8, clean.shape)
    assert taken.mean((0, 1)) == pytest.approx((200, 120, 40), abs=1.5)


def test_an_edge_stays_where_it_was_and_odd_sizes_stay_odd() -> None:
    clean = flat(30, 30, 30, height=41, width=51)
    clean[:, 20:] = 220
    taken = phone(clean, 1.0, generator_for(0))
    assert taken.shape == clean.shape
    assert np.abs(taken.astype(int) - clean)[:, [*range(17), *range(23, 51)]].mean() < 3


def test_light_is_as_dim_as_was_asked() -> None:
    clean = sample_set().samples[3].load()
    taken = phone(clean, 0.15, generator_for(0))
    light, dim = (srgb_to_linear(from_numpy(image).float() / 255).mean().item() for image in (clean, taken))
    assert dim / light == pytest.approx(0.15, rel=0.05)


def test_what_is_left_of_the_noise_is_weak_and_blotched() -> None:
    clean = flat(150, 150, 150, height=128, width=128)
    found = {}
    for name, image in (("phone", phone(clean, 0.04, generator_for(0))), ("sensor", sensor(clean, 0.04))):
        rest = image.mean(2) - image.mean()
        found[name] = rest.std(), np.corrcoef(rest[:, 1:].ravel(), rest[:, :-1].ravel())[0, 1]
    assert found["phone"][0] < 0.5 * found["sensor"][0]
    assert found["phone"][1] > 0.3 > 0.1 > abs(found["sensor"][1])


def test_noise_is_a_function_of_the_seed() -> None:
    clean = flat(120, 140, 90)
    first = phone(clean, 0.04, generator_for(1))
    assert np.array_equal(first, phone(clean, 0.04, generator_for(1)))
    assert not np.array_equal(first, phone(clean, 0.04, generator_for(2)))


def test_noise_deviation_is_what_was_drawn() -> None:
    rng = np.random.default_rng(0)
    noisy = np.clip(np.repeat(rng.normal(128, 7, (256, 256, 1)), 3, 2), 0, 255).round().astype(np.uint8)
    assert noise_deviation(noisy) == pytest.approx(7, rel=0.05)


def test_is_a_level_of_a_set() -> None:
    few = sample_set()
    few = few.replace(samples=few.samples[3:4])
    bare, telephone = darken(few, "dark", "dark-phone", seed=3).samples
    assert (bare.light, telephone.light) == ("dark", "dark-phone")
    assert noise_deviation(telephone.load()) < 0.5 * noise_deviation(bare.load())
    assert telephone.reference is not None
    assert np.array_equal(telephone.reference(), few.samples[0].load())
    with pytest.raises(ValueError, match=r"one of mild-phone, .*, extreme but got 'dark-film'"):
        darken(few, "dark-film")
