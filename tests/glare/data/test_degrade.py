import pytest
import torch

from glare.data.degrade import (
    LEVELS,
    degrade,
    generator_for,
    linear_to_srgb,
    random_degrade,
    sample_cast,
    sample_exposure,
    srgb_to_linear,
)


def flat(value: float, size: int = 200) -> torch.Tensor:
    return torch.full((3, size, size), value, dtype=torch.float64)


class TestCurve:
    # The formula of the sRGB standard, worked out by hand: 0.04 / 12.92 and ((0.5 + 0.055) / 1.055)^2.4.
    @pytest.mark.parametrize(
        ("code", "light"), [(0.0, 0.0), (0.04, 0.00309598), (0.5, 0.21404114), (1.0, 1.0)]
    )
    def test_known_values(self, code: float, light: float) -> None:
        value = torch.tensor(code, dtype=torch.float64)
        assert srgb_to_linear(value).item() == pytest.approx(light, abs=1e-8)
        assert linear_to_srgb(torch.tensor(light, dtype=torch.float64)).item() == pytest.approx(
            code, abs=1e-6
        )

    def test_round_trip(self) -> None:
        x = torch.linspace(0, 1, 1001, dtype=torch.float64)
        # The standard's two branches meet to about 1e-7 only.
        torch.testing.assert_close(linear_to_srgb(srgb_to_linear(x)), x, rtol=0, atol=1e-6)


class TestPhysics:
    def test_light_is_scaled_by_exposure(self) -> None:
        image = torch.rand(3, 40, 40, dtype=torch.float64)
        dark = degrade(image, exposure=0.04, noise=False, quantize=False)
        torch.testing.assert_close(srgb_to_linear(dark), 0.04 * srgb_to_linear(image), rtol=0, atol=1e-6)

    def test_noise_keeps_the_mean(self) -> None:
        dark = degrade(flat(0.8), exposure=0.15, generator=generator_for(0), quantize=False)
        expected = 0.15 * srgb_to_linear(flat(0.8)).mean().item()
        assert srgb_to_linear(dark).mean().item() == pytest.approx(expected, rel=0.01)

    @pytest.mark.parametrize("read_noise", [0.0, 2.0])
    def test_variance_is_that_of_electrons(self, read_noise: float) -> None:
        full_well, exposure = 800.0, 0.15
        dark = degrade(
            flat(0.8),
            exposure=exposure,
            full_well=full_well,
            read_noise=read_noise,
            generator=generator_for(1),
            quantize=False,
        )
        electrons = srgb_to_linear(dark) * full_well
        expected = exposure * srgb_to_linear(flat(0.8)).mean().item() * full_well + read_noise**2
        assert electrons.var().item() == pytest.approx(expected, rel=0.03)

    def test_cast_tints_light(self) -> None:
        cast = torch.tensor([1.1, 1.0, 0.9], dtype=torch.float64)
        dark = degrade(flat(0.5, 4), exposure=0.15, cast=cast, noise=False, quantize=False)
        light = srgb_to_linear(dark)[:, 0, 0]
        torch.testing.assert_close(light / light[1], cast, rtol=1e-6, atol=0)

    def test_eight_bits(self) -> None:
        dark = degrade(torch.rand(3, 20, 20), exposure=0.15, generator=generator_for(2))
        torch.testing.assert_close(dark * 255, (dark * 255).round(), rtol=0, atol=1e-4)
        assert dark.min() >= 0
        assert dark.max() <= 1

    def test_batch_has_its_own_exposures(self) -> None:
        batch = torch.rand(2, 3, 8, 8)
        both = degrade(batch, exposure=torch.tensor([0.1, 0.2]), noise=False)
        for i, exposure in enumerate((0.1, 0.2)):
            torch.testing.assert_close(both[i], degrade(batch[i], exposure=exposure, noise=False))


class TestRandomness:
    def test_same_key_same_image(self) -> None:
        image = torch.rand(3, 16, 16)
        first, again, other = (
            degrade(image, exposure=0.15, generator=generator_for(0, name, "dark"))
            for name in ("a", "a", "b")
        )
        assert torch.equal(first, again)
        assert not torch.equal(first, other)

    def test_key_parts_do_not_run_together(self) -> None:
        assert generator_for(1, "1a").initial_seed() != generator_for(11, "a").initial_seed()

    @pytest.mark.parametrize(("level", "exposure"), [("mild", 0.15), ("dark", 0.04), ("extreme", 0.012)])
    def test_levels(self, level: str, exposure: float) -> None:
        generator = generator_for(3)
        drawn = torch.tensor([sample_exposure(level, generator) for _ in range(2000)]) / exposure
        assert drawn.min() >= 0.75
        assert drawn.max() <= 1.334
        assert drawn.log().mean().item() == pytest.approx(0, abs=0.02)  # log-uniform around the level

    def test_cast_is_mild(self) -> None:
        generator = generator_for(4)
        casts = torch.stack([sample_cast(generator) for _ in range(500)])
        assert casts.shape == (500, 3)
        assert 0.9 <= casts.min() < 0.91
        assert 1.09 < casts.max() <= 1.1

    def test_training_draw(self) -> None:
        image = torch.rand(3, 32, 48)
        first, again = (random_degrade(image, generator_for(5)) for _ in range(2))
        assert torch.equal(first, again)
        assert first.shape == image.shape
        assert first.dtype == image.dtype
        means = torch.tensor([random_degrade(image, generator_for(6, i)).mean().item() for i in range(200)])
        assert means.min() < 0.1  # from nearly black
        assert means.max() > 0.25  # to dusk
        assert means.max() < image.mean()


class TestErrors:
    def test_levels_are_named(self) -> None:
        assert list(LEVELS) == ["mild", "dark", "extreme"]
        with pytest.raises(ValueError, match="mild, dark, extreme but got 'pitch'"):
            sample_exposure("pitch")

    @pytest.mark.parametrize(
        "image", [torch.rand(1, 8, 8), torch.rand(8, 8), torch.zeros(3, 8, 8, dtype=torch.uint8)]
    )
    def test_image(self, image: torch.Tensor) -> None:
        with pytest.raises(ValueError, match="argument `image`"):
            degrade(image, exposure=0.1)

    @pytest.mark.parametrize("exposure", [0.0, -0.1])
    def test_exposure(self, exposure: float) -> None:
        with pytest.raises(ValueError, match="argument `exposure` to be above 0"):
            degrade(torch.rand(3, 8, 8), exposure=exposure)

    @pytest.mark.parametrize("settings", [{"full_well": 0.0}, {"read_noise": -1.0}])
    def test_noise(self, settings: dict[str, float]) -> None:
        with pytest.raises(ValueError, match="`full_well` above 0 and `read_noise`"):
            degrade(torch.rand(3, 8, 8), exposure=0.1, **settings)
