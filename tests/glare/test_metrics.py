import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch import Tensor

from glare.metrics import gt_mean, psnr, ssim


@pytest.fixture
def images() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    reference = (255 * torch.rand(2, 3, 24, 31, generator=generator)).round() / 255
    noisy = (reference + 0.1 * torch.randn(reference.shape, generator=generator)).clamp(0, 1)
    return (255 * noisy).round() / 255, reference


def as_uint8(image: Tensor) -> np.ndarray:
    return (255 * image).round().byte().movedim(0, -1).numpy()


def test_psnr_is_that_of_scikit_image(images: tuple[Tensor, Tensor]) -> None:
    for value, image, reference in zip(psnr(*images), *images, strict=True):
        expected = peak_signal_noise_ratio(as_uint8(reference), as_uint8(image), data_range=255)
        assert value.item() == pytest.approx(expected, abs=1e-4)


def test_ssim_is_that_of_scikit_image(images: tuple[Tensor, Tensor]) -> None:
    for value, image, reference in zip(ssim(*(t.double() for t in images)), *images, strict=True):
        _, whole = structural_similarity(
            as_uint8(reference),
            as_uint8(image),
            data_range=255,
            channel_axis=-1,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
            full=True,
        )
        # The valid area: where the window of 11 lies within the image.
        assert value.item() == pytest.approx(whole[5:-5, 5:-5].mean(), abs=1e-6)


def test_ssim_gradcheck(images: tuple[Tensor, Tensor]) -> None:
    image, reference = (t[:1, :, :12, :13].double() for t in images)
    assert torch.autograd.gradcheck(lambda t: ssim(t, reference), (image.requires_grad_(),))


def test_ssim_is_exact_under_autocast(images: tuple[Tensor, Tensor]) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(ssim(*images), ssim(*(t.clone() for t in images)))
        inside = ssim(*images)
    torch.testing.assert_close(inside, ssim(*images), rtol=0, atol=0)


def test_gt_mean_aligns_the_grey_level(images: tuple[Tensor, Tensor]) -> None:
    _, reference = images
    torch.testing.assert_close(gt_mean(0.25 * reference, reference), reference)


@pytest.mark.parametrize("metric", [psnr, ssim, gt_mean])
def test_shapes_must_agree(metric: object) -> None:
    with pytest.raises(
        ValueError, match=r"one shape \(B,C,H,W\) but got \(1, 3, 16, 16\) and \(1, 3, 16, 15\)"
    ):
        metric(torch.rand(1, 3, 16, 16), torch.rand(1, 3, 16, 15))  # type: ignore[operator]


def test_image_smaller_than_the_window() -> None:
    with pytest.raises(ValueError, match=r"at least 11×11 but got \(10, 40\)"):
        ssim(torch.rand(1, 3, 10, 40), torch.rand(1, 3, 10, 40))
