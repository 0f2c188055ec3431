from collections.abc import Callable
from pathlib import Path, PurePosixPath

import lpips
import numpy as np
import pytest
import skimage
import torch
from safetensors.torch import save_file
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch import Tensor

from glare.metrics import LPIPS, gt_mean, psnr, ssim

#: Backbone and heads; LPIPS by itself downloads the backbone.
ALEX = Path(__file__).parents[3] / "shared" / "weights" / "lpips_alex_full_v0.1.pth"


@pytest.fixture
def images() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    reference = (255 * torch.rand(2, 3, 24, 31, generator=generator)).round() / 255
    noisy = (reference + 0.1 * torch.randn(reference.shape, generator=generator)).clamp(0, 1)
    return (255 * noisy).round() / 255, reference


def as_batch(image: np.ndarray) -> Tensor:
    return torch.from_numpy(image).movedim(-1, 0)[None].float() / 255


def photograph(name: str) -> np.ndarray:
    image: np.ndarray = getattr(skimage.data, name)()[:200, :300]
    return image


#: What becomes of a photograph: noise, brightening, darkness with its few grey levels, hardly anything.
DAMAGES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "noise": lambda r: np.clip(r + np.random.default_rng(0).normal(0, 20, r.shape), 0, 255).astype(np.uint8),
    "gamma": lambda r: (255 * (r / 255) ** 0.45).round().astype(np.uint8),
    "dark": lambda r: r // 20,
    "near": lambda r: np.where(np.arange(r.shape[1])[:, None] % 40, r, r ^ 1),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", ["astronaut", "coffee"])
def test_8_bit_photographs_have_the_figures_of_scikit_image(name: str, damage: str) -> None:
    reference = photograph(name)
    image = DAMAGES[damage](reference)
    expected = peak_signal_noise_ratio(reference, image, data_range=255)
    assert psnr(as_batch(image), as_batch(reference)).item() == pytest.approx(expected, abs=1e-6)
    expected = structural_similarity(
        reference,
        image,
        data_range=255,
        channel_axis=-1,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
    )
    assert ssim(as_batch(image), as_batch(reference)).item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("metric", [psnr, ssim])
def test_a_batch_is_its_images_one_by_one(
    metric: Callable[[Tensor, Tensor], Tensor], images: tuple[Tensor, Tensor]
) -> None:
    alone = [metric(image[None], reference[None]) for image, reference in zip(*images, strict=True)]
    torch.testing.assert_close(metric(*images), torch.cat(alone), rtol=0, atol=1e-12)


def test_equal_images(images: tuple[Tensor, Tensor]) -> None:
    _, reference = images
    assert psnr(reference, reference).tolist() == [float("inf")] * 2
    assert ssim(reference, reference).tolist() == [1.0] * 2


def test_psnr_gradcheck(images: tuple[Tensor, Tensor]) -> None:
    image, reference = (t[:1, :, :5, :4].double() for t in images)
    assert torch.autograd.gradcheck(lambda t: psnr(t, reference), (image.requires_grad_(),))


@pytest.mark.parametrize("metric", [psnr, ssim])
def test_gradient_comes_in_the_precision_of_the_image(
    metric: Callable[[Tensor, Tensor], Tensor], images: tuple[Tensor, Tensor]
) -> None:
    image, reference = images
    metric(image.requires_grad_(), reference).sum().backward()
    assert image.grad is not None
    assert image.grad.dtype == torch.float32
    assert image.grad.count_nonzero() > 0.9 * image.numel()


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


class TestLPIPS:
    @pytest.mark.skipif(not ALEX.is_file(), reason="needs ../shared/weights/lpips_alex_full_v0.1.pth")
    @pytest.mark.parametrize("damage", DAMAGES)
    def test_is_that_of_the_package(self, damage: str) -> None:
        # Its own heads, and the backbone that it would download.
        package = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False)
        backbone = {k: v for k, v in torch.load(ALEX, weights_only=True).items() if k.startswith("net.")}
        left = package.load_state_dict(backbone, strict=False).missing_keys
        assert left
        assert not any(key.startswith("net.") for key in left)
        ours, references = LPIPS(ALEX), [photograph(name) for name in ("astronaut", "coffee")]
        pair = [
            torch.cat([as_batch(i) for i in images])
            for images in ([DAMAGES[damage](r) for r in references], references)
        ]
        expected = package(*(2 * image - 1 for image in pair)).flatten()
        assert expected.min() > 0
        torch.testing.assert_close(ours(*pair), expected, rtol=0, atol=1e-5)

    def test_takes_the_file_and_nothing_else(self, chance: Path, images: tuple[Tensor, Tensor]) -> None:
        package = lpips.LPIPS(net="alex", pretrained=False, pnet_rand=True, verbose=False)
        package.load_state_dict(torch.load(chance, weights_only=True))
        image, reference = (torch.nn.functional.interpolate(t, (40, 33)) for t in images)
        expected = package.eval()(2 * image - 1, 2 * reference - 1).flatten()
        torch.testing.assert_close(LPIPS(chance)(image, reference), expected, rtol=0, atol=1e-5)

    def test_gradient_reaches_the_image(self, chance: Path) -> None:
        image, reference = torch.rand(2, 1, 3, 31, 47).unbind()
        network = LPIPS(chance)
        network(image.requires_grad_(), reference).sum().backward()
        assert image.grad is not None
        assert image.grad.isfinite().all()
        assert image.grad.count_nonzero() > 0
        assert all(p.grad is None for p in network.parameters())

    def test_equal_images_have_no_distance(self, chance: Path) -> None:
        image = torch.rand(2, 3, 31, 31)
        assert LPIPS(chance)(image, image).tolist() == [0.0, 0.0]

    @pytest.mark.parametrize("shape", [(30, 64), (64, 30)])
    def test_images_too_small(self, chance: Path, shape: tuple[int, int]) -> None:
        with pytest.raises(ValueError, match=rf"at least 31×31 but got \({shape[0]}, {shape[1]}\)"):
            LPIPS(chance)(torch.rand(1, 3, *shape), torch.rand(1, 3, *shape))

    @pytest.mark.parametrize(
        ("content", "reason"),
        [
            (b"", "damaged or no file of tensors"),
            (b"this is no checkpoint", "damaged or no file of tensors"),
            ({"path": PurePosixPath("x")}, "damaged or no file of tensors"),
            ([1, 2], "list"),
            ({"a": torch.zeros(1)}, "Missing key"),
        ],
    )
    def test_wrong_file_is_refused_by_name(self, content: object, reason: str, tmp_path: Path) -> None:
        file = tmp_path / "alex.pth"
        if isinstance(content, bytes):
            file.write_bytes(content)
        else:
            torch.save(content, file)
        with pytest.raises(
            ValueError, match=rf"(?s)alex\.pth does not hold the weights of LPIPS-alex: .*{reason}"
        ):
            LPIPS(file)

    def test_wrong_kind_of_file(self, tmp_path: Path) -> None:
        save_file({"a": torch.zeros(1)}, tmp_path / "alex.safetensors")
        with pytest.raises(ValueError, match=r"alex\.safetensors does not hold the weights of LPIPS-alex"):
            LPIPS(tmp_path / "alex.safetensors")

    def test_file_that_is_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match=r"nothing\.pth"):
            LPIPS(tmp_path / "nothing.pth")
