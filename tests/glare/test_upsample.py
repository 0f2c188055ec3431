from __future__ import annotations

import numpy as np
import pytest
import skimage
import torch
from torch import Tensor

from glare import GLARE, GLAREEnhance
from glare.upsample import downsample, upsample


def photograph() -> Tensor:
    return torch.from_numpy(skimage.data.chelsea()).permute(2, 0, 1)[None] / 255.0


def psnr(image: Tensor, reference: Tensor) -> float:
    return float(-10 * (image - reference).square().mean().log10())


def test_a_gain_is_applied_at_full_size() -> None:
    """A picture made twice as bright at half the size is as sharp at full size as when it is made so there."""
    image = photograph() / 4
    small = downsample(image, 0.5)
    assert small.shape[2:] == (150, 226)  # of 300x451
    result = upsample(small, 2 * small, image)
    assert result.shape == image.shape
    plain = torch.nn.functional.interpolate(2 * small, image.shape[2:], mode="bilinear")
    assert psnr(result, 2 * image) > psnr(plain, 2 * image) + 1


def test_a_flat_picture_stays_flat() -> None:
    image = torch.full((2, 3, 9, 7), 0.1)
    small = downsample(image, 0.5)
    torch.testing.assert_close(upsample(small, small + 0.3, image), torch.full_like(image, 0.4))


def test_noise_stays_out() -> None:
    """What the small result does not follow is not brought back."""
    torch.manual_seed(0)
    image = (0.05 + 0.01 * torch.randn(1, 3, 64, 64)).clamp(0, 1)
    small = downsample(image, 0.5)
    result = upsample(small, torch.full_like(small, 0.5), image)
    assert float(result.std()) < 0.001


class TestTransform:
    def test_the_network_sees_half_the_size(self, model: GLARE) -> None:
        enhance = GLAREEnhance(model, scale=0.5)
        seen = []
        enhance.model.condition.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape))
        pixels = torch.randint(0, 60, (2, 3, 33, 50), dtype=torch.uint8)
        result = enhance(pixels)
        assert (result.shape, result.dtype) == (pixels.shape, torch.uint8)
        assert seen[0][2:] == (16, 28)  # of 16x25, padded
        for one, other in zip(result, pixels, strict=True):
            assert (enhance(other).int() - one.int()).abs().max() <= 1  # no image depends on the others

    def test_gradient(self, model: GLARE) -> None:
        low = (0.2 * torch.rand(1, 3, 24, 32)).requires_grad_()
        GLAREEnhance(model, scale=0.5)(low).mean().backward()
        assert low.grad is not None
        assert float(low.grad.abs().sum()) > 0

    @pytest.mark.parametrize("dark", [4, 8])
    def test_it_is_within_a_decibel(self, dark: int) -> None:
        """With the weights that come with the package, on a photograph with the noise of a camera."""
        reference = photograph()
        generator = np.random.default_rng(0)
        light = (reference.numpy() ** 2.2 / dark) + generator.normal(0, 0.002, reference.shape)
        low = torch.from_numpy(np.clip(light, 0, 1) ** (1 / 2.2)).float()
        full, half = (psnr(GLAREEnhance("glare-tiny", scale=s)(low), reference) for s in (1.0, 0.5))
        assert half > full - 1.0

    def test_mistakes(self, model: GLARE) -> None:
        for scale in (0.0, 1.5, -1.0):
            with pytest.raises(ValueError, match=r"`scale` to be in \(0, 1\] but got"):
                GLAREEnhance(model, scale=scale)
        with pytest.raises(TypeError, match="`scale` to be a number but got str"):
            GLAREEnhance(model, scale="half")  # type: ignore[arg-type]
