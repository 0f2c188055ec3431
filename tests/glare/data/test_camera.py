import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from skimage.data import astronaut

from glare.data import camera
from glare.data.camera import Draw, demosaic, denoise, mosaic, random_night
from glare.data.degrade import degrade, generator_for


@pytest.fixture
def photograph() -> torch.Tensor:
    return torch.from_numpy(astronaut()[100:228, 150:278]).permute(2, 0, 1).float() / 255


def psnr(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(-10 * (a - b).square().mean().log10())


class TestMosaic:
    @pytest.mark.parametrize("red", [(0, 0), (0, 1), (1, 0), (1, 1)])
    @pytest.mark.parametrize("smooth", [False, True])
    def test_what_was_seen_stays_and_a_grey_ramp_comes_back(self, red: tuple[int, int], smooth: bool) -> None:
        ramp = torch.linspace(0.1, 0.9, 20).expand(3, 16, 20).contiguous()
        raw = mosaic(ramp, red)
        found = demosaic(raw, red, smooth)
        torch.testing.assert_close(mosaic(found, red), raw)
        # Mirrored at the border it is no ramp.
        torch.testing.assert_close(found[:, 2:-2, 2:-2], ramp[:, 2:-2, 2:-2])

    def test_bilinear_is_that_of_opencv(self, photograph: torch.Tensor) -> None:
        raw = (mosaic(photograph, (0, 0)) * 65535).round()
        theirs = cv2.cvtColor(raw.numpy().astype(np.uint16), cv2.COLOR_BayerRGGB2RGB)
        ours = demosaic(raw, (0, 0), smooth=True)
        inside = (slice(None), slice(2, -2), slice(2, -2))
        expected = torch.from_numpy(theirs.astype(np.float32)).permute(2, 0, 1)
        torch.testing.assert_close(ours[inside], expected[inside], rtol=0, atol=1.0)

    def test_malvar_is_better_than_bilinear(self, photograph: torch.Tensor) -> None:
        raw = mosaic(photograph, (1, 0))
        assert psnr(demosaic(raw, (1, 0)), photograph) > psnr(demosaic(raw, (1, 0), True), photograph) + 2


def test_box_is_average_pooling() -> None:
    image = torch.rand(3, 17, 9)
    expected = F.avg_pool2d(image, 5, 1, 2, count_include_pad=False)
    torch.testing.assert_close(camera._box(image, 2), expected)


class TestDenoise:
    def test_takes_noise_and_keeps_edges(self) -> None:
        edge = torch.full((3, 64, 64), 0.2)
        edge[:, :, 32:] = 0.6
        noisy = edge + 0.03 * torch.randn(3, 64, 64, generator=generator_for(0))
        found = denoise(noisy, 2.0, 2)
        flat = found[:, 8:-8, 8:24]
        assert flat.std() < 0.5 * noisy[:, 8:-8, 8:24].std()
        assert (found[:, :, 34] - found[:, :, 29]).mean() > 0.35

    def test_strength_0_is_nothing(self, photograph: torch.Tensor) -> None:
        assert denoise(photograph, 0.0, 2) is photograph


class TestRandomNight:
    def test_is_a_function_of_the_generator_on_the_8_bit_grid(self, photograph: torch.Tensor) -> None:
        nights = [random_night(photograph, generator_for(i)) for i in range(40)]
        assert torch.equal(nights[0], random_night(photograph, generator_for(0)))
        assert not torch.equal(nights[0], nights[1])
        for night in nights:
            assert night.shape == photograph.shape
            assert night.dtype == photograph.dtype
            torch.testing.assert_close((night * 255).round() / 255, night)
            assert 0.0 <= night.min() <= night.max() <= 1.0
        means = torch.stack([night.mean() for night in nights])
        assert means.max() < photograph.mean()
        assert means.median() < 0.5 * photograph.mean()

    def test_cameras_are_drawn_as_often_as_said(
        self, photograph: torch.Tensor, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        seen = {"sensor": 0, "quiet": 0, "camera": 0}

        def sensor(image: torch.Tensor, generator: torch.Generator | None) -> torch.Tensor:
            seen["sensor"] += 1
            return image

        def developed(light: torch.Tensor, quiet: bool, draw: Draw) -> torch.Tensor:
            seen["quiet" if quiet else "camera"] += 1
            return light

        monkeypatch.setattr(camera, "random_degrade", sensor)
        monkeypatch.setattr(camera, "_developed", developed)
        for i in range(400):
            random_night(photograph, generator_for(i))
        assert 80 <= seen["sensor"] <= 160
        assert 110 <= seen["quiet"] <= 200  # a third of all and more
        assert seen["camera"] >= 80

    def test_a_quiet_camera_leaves_less_noise_than_a_sensor(self) -> None:
        grey = torch.full((3, 96, 96), 0.6)
        light = torch.full((3, 96, 96), 0.32) * 0.04

        def grain(night: torch.Tensor) -> float:
            return float((night[:, :, 1:] - night[:, :, :-1]).std() / night.mean())

        quiet = [grain(camera._developed(light, True, Draw(generator_for(i)))) for i in range(20)]
        noisy = [grain(camera._developed(light, False, Draw(generator_for(i)))) for i in range(20)]
        sensor = [grain(degrade(grey, exposure=0.04, generator=generator_for(i))) for i in range(20)]
        assert np.median(quiet) < 0.25 * np.median(sensor)
        assert np.median(quiet) < 0.25 * np.median(noisy)
