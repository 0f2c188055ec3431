import numpy as np
import pytest
from skimage.color import rgb2ycbcr, rgb2yiq
from skimage.filters import gaussian
from skimage.metrics import structural_similarity
from skimage.transform import downscale_local_mean

from detection import sample_set
from detection.data.core import Pixels
from detection.metrics.image_quality import (
    DEFINITIONS,
    METRICS,
    Metric,
    as_tensor,
    by_name,
    gt_mean,
    psnr,
    ssim,
    where_defined,
)
from glare.metrics import ssim as glare_ssim


class TestQuality:
    @pytest.fixture
    def pair(self) -> tuple[Pixels, Pixels]:
        image = sample_set().samples[3].load()[:64, :80]
        noise = np.random.default_rng(0).normal(0, 12, image.shape)
        return image, (image + noise).clip(0, 255).astype(np.uint8)

    def test_psnr(self, pair: tuple[Pixels, Pixels]) -> None:
        error = np.mean((pair[0].astype(float) - pair[1]) ** 2)
        assert psnr(pair[1], pair[0]) == pytest.approx(10 * np.log10(255**2 / error))

    def test_ssim(self, pair: tuple[Pixels, Pixels]) -> None:
        # Wang's formula written out; an 11×11 window is a radius of 5, cut off at 3.5 σ.
        def mean(x: np.ndarray) -> np.ndarray:
            return gaussian(x, sigma=1.5, truncate=3.5, channel_axis=-1, mode="reflect")

        x, y = (image.astype(float) for image in pair)
        c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
        mx, my = mean(x), mean(y)
        vx, vy, cov = mean(x * x) - mx**2, mean(y * y) - my**2, mean(x * y) - mx * my
        values = (2 * mx * my + c1) * (2 * cov + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))
        assert ssim(*pair) == pytest.approx(values[5:-5, 5:-5].mean(), abs=1e-7)

    def test_ssim_of_what_is_nearly_even(self) -> None:
        # All that is there to see is far smaller than the values: what single precision is worst at.
        tall = np.full((150, 40, 3), 250, np.uint8)
        assert ssim(tall, tall + np.uint8(2)) == pytest.approx(exact(tall, tall + np.uint8(2)), abs=1e-6)
        tall[:, 20:] = 3
        striped = tall.copy()
        striped[::2] += 1
        assert ssim(tall, striped) == pytest.approx(exact(tall, striped), abs=1e-4)

    @pytest.mark.parametrize("height", [11, 64, 74, 75, 139])
    def test_ssim_of_any_height(self, height: int) -> None:
        rng = np.random.default_rng(height)
        image, reference = (rng.integers(0, 256, (height, 13, 3), dtype=np.uint8) for _ in range(2))
        assert ssim(image, reference) == pytest.approx(exact(image, reference), abs=1e-7)


class TestDefinitionsOfOthers:
    """Against scikit-image's colours and SSIM; docs/metrics.md has the packages' own figures."""

    @pytest.fixture
    def pair(self) -> tuple[Pixels, Pixels]:
        image = sample_set().samples[4].load()[:400, :600]
        assert image.shape == (400, 600, 3)
        noise = np.random.default_rng(0).normal(0, 25, image.shape)
        noisy = (image * 0.8 + noise).clip(0, 255).astype(np.uint8)
        noisy[:100, :100] = 255 - image[:100, :100]  # where the structure is negative
        return noisy, image

    def ssim(self, x: np.ndarray, y: np.ndarray, lowest: float = -1.0) -> float:
        _, values = structural_similarity(
            x,
            y,
            data_range=255,
            channel_axis=-1,
            gaussian_weights=True,
            use_sample_covariance=False,
            full=True,
        )
        return float(values.clip(min=lowest)[5:-5, 5:-5].mean())

    def psnr(self, x: np.ndarray, y: np.ndarray) -> float:
        return float(10 * np.log10(255**2 / np.mean((x - y) ** 2)))

    def test_pyiqa(self, pair: tuple[Pixels, Pixels]) -> None:
        x, y = (255 * rgb2yiq(image)[..., :1] for image in pair)
        (of_psnr, of_ssim) = DEFINITIONS["pyiqa-y"]
        assert of_psnr(*pair) == pytest.approx(self.psnr(x, y), abs=1e-5)
        # A few values lie halfway between two of 8 bits, and go either way.
        assert of_ssim(*pair) == pytest.approx(self.ssim(x.round(), y.round(), lowest=0.0), abs=1e-5)
        assert of_ssim(*pair) - self.ssim(x.round(), y.round()) > 0.001

    def test_basicsr(self, pair: tuple[Pixels, Pixels]) -> None:
        x, y = (rgb2ycbcr(image)[..., :1] for image in pair)
        (of_psnr, of_ssim) = DEFINITIONS["basicsr-y"]
        assert of_psnr(*pair) == pytest.approx(self.psnr(x, y), abs=1e-5)
        assert of_ssim(*pair) == pytest.approx(self.ssim(x, y), abs=1e-6)

    def test_piq(self, pair: tuple[Pixels, Pixels]) -> None:
        (of_ssim,) = DEFINITIONS["piq"]
        halves = [downscale_local_mean(image.astype(float), (2, 2, 1)) for image in pair]
        assert of_ssim(*pair) == pytest.approx(self.ssim(*halves), abs=1e-6)
        small = [image[:300] for image in pair]  # is not averaged
        assert of_ssim(*small) == pytest.approx(ssim(*small), abs=1e-6)


def exact(image: Pixels, reference: Pixels) -> float:
    return float(glare_ssim(as_tensor(image), as_tensor(reference)))


class TestMetric:
    def test_where_there_is_no_reference(self) -> None:
        image = sample_set().samples[3].load()
        assert np.isnan(METRICS["PSNR"](image))
        assert METRICS["NIQE"](image) == METRICS["NIQE"](image, image) > 0

    def test_by_name(self) -> None:
        own = Metric("mean", lambda image: float(image.mean()), needs_reference=False)
        assert by_name(["SSIM", own]) == (METRICS["SSIM"], own)
        with pytest.raises(ValueError, match="names out of PSNR, SSIM, NIQE, but got 'FID'"):
            by_name(["FID"])

    def test_gt_mean_takes_the_brightness_of_the_reference(self) -> None:
        reference = np.full((20, 20, 3), 200, np.uint8)
        aligned = gt_mean(METRICS["PSNR"])
        assert aligned.name == "PSNR GT-mean"
        assert METRICS["PSNR"](reference // 2, reference) < 10
        assert aligned(reference // 2, reference) > 100

    def test_what_cannot_be_judged(self) -> None:
        black = np.zeros((200, 200, 3), np.uint8)
        with pytest.raises(ValueError, match="less than two blocks of 96×96 have grain"):
            METRICS["NIQE"](black)
        assert np.isnan(where_defined(METRICS["NIQE"])(black))
