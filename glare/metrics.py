"""Distance of an image from its reference: PSNR, SSIM and LPIPS, batched and differentiable.

PSNR and SSIM are computed in float64 whatever comes, so that images of 8 bits, given as float32, have scikit-image's
figures to 1e-6. `glare.niqe` is for images without a reference.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WINDOW = 11
SIGMA = 1.5
SMALLEST_LPIPS = 31


def psnr(image: Tensor, reference: Tensor) -> Tensor:
    """Return the peak signal-to-noise ratio in dB per image, for values in [0,1]: (B,C,H,W) twice -> (B,) float64.

    Infinite for equal images.

    Raises:
        ValueError: if the shapes differ.

    >>> psnr(torch.full((1, 3, 16, 16), 0.5), torch.full((1, 3, 16, 16), 0.6)).round(decimals=2)
    tensor([20.], dtype=torch.float64)
    """
    _check(image, reference)
    return -10.0 * torch.log10((_exact(image) - _exact(reference)).square().mean((1, 2, 3)))


def ssim(image: Tensor, reference: Tensor) -> Tensor:
    """Return the structural similarity per image (Wang et al., 2004), values in [0,1]: (B,C,H,W) twice -> (B,) float64.

    Gaussian window of 11 pixels and σ 1.5, population covariance, mean over the valid area and the channels.

    Raises:
        ValueError: if the shapes differ or an image is smaller than the window.

    >>> image = torch.rand(2, 3, 16, 16)
    >>> ssim(image, image)
    tensor([1., 1.], dtype=torch.float64)
    """
    structure, luminance = ssim_maps(_exact(image), _exact(reference))
    return (structure * luminance).mean((1, 2, 3))


def ssim_maps(image: Tensor, reference: Tensor) -> tuple[Tensor, Tensor]:
    """Return the two factors of SSIM at each valid position: contrast-structure and luminance, (B,C,H-10,W-10) each.

    They are computed in the precision of the input; in float32 an image's mean is off by up to about 1e-5.
    """
    _check(image, reference, WINDOW)
    x = torch.arange(WINDOW, dtype=image.dtype, device=image.device) - WINDOW // 2
    window = torch.exp(-0.5 * (x / SIGMA).square())
    window = window / window.sum()
    channels = image.shape[1]

    def blur(t: Tensor) -> Tensor:
        t = F.conv2d(t, window.view(1, 1, -1, 1).expand(channels, 1, WINDOW, 1), groups=channels)
        return F.conv2d(t, window.view(1, 1, 1, -1).expand(channels, 1, 1, WINDOW), groups=channels)

    # These are differences of nearly equal numbers, so never in bfloat16.
    with torch.autocast(image.device.type, enabled=False):
        mean_x, mean_y = blur(image), blur(reference)
        var_x = blur(image * image) - mean_x.square()
        var_y = blur(reference * reference) - mean_y.square()
        covariance = blur(image * reference) - mean_x * mean_y
    c1, c2 = 0.01**2, 0.03**2
    structure = (2.0 * covariance + c2) / (var_x + var_y + c2)
    luminance = (2.0 * mean_x * mean_y + c1) / (mean_x.square() + mean_y.square() + c1)
    return structure, luminance


def gt_mean(image: Tensor, reference: Tensor) -> Tensor:
    """Scale each image to the mean grey level of its reference, and clamp: (B,3,H,W) twice -> (B,3,H,W).

    Much of the field does this before it measures. It uses the answer: never quote it without saying so.

    >>> gt_mean(torch.full((1, 3, 4, 4), 0.1), torch.full((1, 3, 4, 4), 0.5)).mean()
    tensor(0.5000)
    """
    _check(image, reference)
    grey = torch.tensor([0.299, 0.587, 0.114], dtype=image.dtype, device=image.device).view(3, 1, 1)
    ratio = (reference * grey).sum(1).mean((1, 2)) / (image * grey).sum(1).mean((1, 2)).clamp(min=1e-6)
    return (image * ratio.view(-1, 1, 1, 1)).clamp(0, 1)


class LPIPS(nn.Module):
    """Learned perceptual distance on AlexNet, version 0.1, by the ``lpips`` package (Zhang et al., CVPR 2018).

    Args:
        file: ``state_dict`` of the whole network, backbone and heads; ``None`` takes the package's heads and
            torchvision's backbone, which it downloads.

    Raises:
        ImportError: without the package.
        OSError: if the file cannot be opened.
        ValueError: if the file is not such a ``state_dict``; no code in it is run.
    """

    def __init__(self, file: str | Path | None = None) -> None:
        super().__init__()
        try:
            import lpips
        except ModuleNotFoundError as error:
            raise ImportError(f'{error}. LPIPS needs its extra: pip install "glare-torch[lpips]"') from error
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # torchvision warns of how lpips asks for AlexNet
            self.network = lpips.LPIPS(
                net="alex", pretrained=file is None, pnet_rand=file is not None, verbose=False
            )
        if file is not None:
            try:
                content = torch.load(file, map_location="cpu", weights_only=True)
            except OSError:
                raise
            except Exception as error:  # a damaged file may lead the unpickler to any error
                raise ValueError(
                    f"{file} does not hold the weights of LPIPS-alex: it is damaged or no file of tensors "
                    f"({type(error).__name__})."
                ) from error
            try:
                self.network.load_state_dict(content)
            except (RuntimeError, TypeError) as error:
                raise ValueError(f"{file} does not hold the weights of LPIPS-alex: {error}") from error
        self.requires_grad_(False).eval()

    def forward(self, image: Tensor, reference: Tensor) -> Tensor:
        """Return the distance (B,) of two batches (B,3,H,W) in [0,1], 0 for equal images.

        Raises:
            ValueError: if the shapes differ or an image is smaller than 31×31, which leaves AlexNet nothing to see.
        """
        _check(image, reference, SMALLEST_LPIPS)
        distance: Tensor = self.network(image, reference, normalize=True)
        return distance.flatten()


def _exact(image: Tensor) -> Tensor:
    """Convert an image to float64, or to float32 where the device has no float64 (Apple's)."""
    return image.to(torch.float32 if image.device.type == "mps" else torch.float64)


def _check(image: Tensor, reference: Tensor, smallest: int = 1) -> None:
    if image.shape != reference.shape or image.ndim != 4:
        raise ValueError(
            f"Expected two images of one shape (B,C,H,W) but got {tuple(image.shape)} and {tuple(reference.shape)}."
        )
    if min(image.shape[2:]) < smallest:
        raise ValueError(
            f"Expected images of at least {smallest}×{smallest} but got {tuple(image.shape[2:])}."
        )
