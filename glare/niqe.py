"""NIQE: the naturalness of an image by the statistics of its grain and edges, without a reference.

Mittal, Soundararajan and Bovik, "Making a 'Completely Blind' Image Quality Analyzer", IEEE Signal Processing Letters
2013. The formula is theirs. The model of natural photographs, with which an image is compared, is ours: fitted by
``experiments/fit_niqe.py`` on the 200 training photographs of BSDS500 (non-commercial research and education; it
holds means and covariances, no picture). So our figures can be compared with each other, but not digit by digit with
published tables.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

FILE = Path(__file__).with_name("niqe.safetensors")
BLOCK = 96
#: 18 features of the image itself and 18 at half its size.
FEATURES = 36
WINDOW = 7
SIGMA = 7 / 6
#: Shapes that a fit may find: 2 is a Gaussian, 1 a Laplacian, smaller ones have longer tails.
SHAPES = torch.arange(0.2, 10.0005, 0.001, dtype=torch.float64)


class NIQE(nn.Module):
    """The distance of an image's statistics from those of natural photographs; the smaller the more natural.

    Args:
        file: the model of natural photographs, written by ``experiments/fit_niqe.py``.

    Raises:
        OSError: if the file cannot be opened.
        ValueError: if it holds no such model.

    >>> import skimage
    >>> photograph = torch.from_numpy(skimage.data.astronaut()).permute(2, 0, 1)[None] / 255
    >>> noisy = (photograph + 0.2 * torch.randn(photograph.shape)).clamp(0, 1)
    >>> bool(NIQE()(photograph) < NIQE()(noisy))
    True
    """

    mean: Tensor
    covariance: Tensor

    def __init__(self, file: str | Path = FILE) -> None:
        super().__init__()
        try:
            tensors = load_file(file)
        except SafetensorError as error:
            raise ValueError(f"{file} is truncated or no safetensors file: {error}") from error
        shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        if shapes != {"mean": (FEATURES,), "covariance": (FEATURES, FEATURES)}:
            raise ValueError(
                f"Expected argument `file` to hold the mean and the covariance of {FEATURES} features but {file} "
                f"holds {shapes}."
            )
        for name, tensor in tensors.items():
            self.register_buffer(name, tensor)

    @torch.no_grad()
    def forward(self, image: Tensor) -> Tensor:
        """Return the figure of each image: (B,3,H,W) in [0,1] -> (B,) float64; NaN if less than two blocks have grain.

        The rest at the right and the bottom, beyond a multiple of 96 pixels, is ignored.

        Raises:
            ValueError: if the shape is another or the image holds less than two blocks of 96×96.
        """
        features, _ = block_features(image)
        return torch.stack([self._distance(blocks[blocks.isfinite().all(1)]) for blocks in features])

    def _distance(self, blocks: Tensor) -> Tensor:
        if len(blocks) < 2:
            return blocks.new_tensor(torch.nan)
        apart = blocks.mean(0) - self.mean.to(blocks)
        spread = (blocks.T.cov() + self.covariance.to(blocks)) / 2
        square: Tensor = apart @ torch.linalg.solve(spread, apart)
        return square.sqrt()


def block_features(image: Tensor) -> tuple[Tensor, Tensor]:
    """Return what NIQE knows of each block of 96×96: (B,3,H,W) in [0,1] -> features (B,N,36), sharpness (B,N), float64.

    The sharpness is the mean local deviation of the luma, in grey levels of 255. The features of a block in which
    nothing varies, a clipped sky say, are not finite.

    Raises:
        ValueError: see `NIQE.forward`.
    """
    if image.ndim != 4 or image.shape[1] != 3:
        raise ValueError(f"Expected an image of shape (B,3,H,W) but got {tuple(image.shape)}.")
    rows, columns = (side // BLOCK for side in image.shape[2:])
    if rows * columns < 2:
        raise ValueError(
            f"Expected images of at least {BLOCK}×{2 * BLOCK} or {2 * BLOCK}×{BLOCK} but got "
            f"{tuple(image.shape[2:])}."
        )
    # Float64: the deviation in a flat region is a difference of numbers up to 65025.
    image = 255.0 * image[..., : rows * BLOCK, : columns * BLOCK].double()
    grey = (image * image.new_tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(1, keepdim=True)
    half = F.interpolate(grey, scale_factor=0.5, mode="bicubic", antialias=True)
    (whole, deviation), (coarse, _) = _normalise(grey), _normalise(half)
    features = [_features(_cut(whole, BLOCK)), _features(_cut(coarse, BLOCK // 2))]
    return torch.cat(features, -1), _cut(deviation, BLOCK).mean((-2, -1))


def _normalise(grey: Tensor) -> tuple[Tensor, Tensor]:
    """Return the MSCN coefficients (mean subtracted, contrast normalised) and the local deviation: (B,1,H,W) each."""
    x = torch.arange(WINDOW, dtype=grey.dtype, device=grey.device) - WINDOW // 2
    window = torch.exp(-0.5 * (x / SIGMA).square())
    window = window / window.sum()

    def blur(t: Tensor) -> Tensor:
        t = F.pad(t, [WINDOW // 2] * 4, mode="replicate")
        return F.conv2d(F.conv2d(t, window.view(1, 1, -1, 1)), window.view(1, 1, 1, -1))

    mean = blur(grey)
    deviation = (blur(grey.square()) - mean.square()).clamp(min=0.0).sqrt()
    return (grey - mean) / (deviation + 1.0), deviation


def _cut(image: Tensor, side: int) -> Tensor:
    """Cut (B,1,H,W) into blocks, (B,N,side,side), row by row."""
    blocks = image[:, 0].unfold(1, side, side).unfold(2, side, side)
    return blocks.flatten(1, 2)


def _features(block: Tensor) -> Tensor:
    """Return the 18 features of each block of MSCN coefficients and of their neighbours' products: (...,18)."""
    shape, left, right = _fit(block)
    features = [shape, (left + right) / 2]
    neighbours = (
        block[..., :, :-1] * block[..., :, 1:],
        block[..., :-1, :] * block[..., 1:, :],
        block[..., :-1, :-1] * block[..., 1:, 1:],
        block[..., :-1, 1:] * block[..., 1:, :-1],
    )
    for product in neighbours:
        shape, left, right = _fit(product)
        mean = (right - left) * torch.exp(torch.lgamma(2 / shape) - torch.lgamma(1 / shape))
        features += [shape, mean, left, right]
    return torch.stack(features, -1)


def _fit(values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Fit asymmetric generalised Gaussians by matching moments: (...,h,w) -> shape, left and right scale, (...) each.

    Lasmar, Stitou and Berthoumieu, "Multiscale skewed heavy tailed model for texture analysis", ICIP 2009.
    """
    square = values.square()
    left, right = (
        ((square * side).sum((-2, -1)) / side.sum((-2, -1))).sqrt() for side in (values < 0, values > 0)
    )
    skew = left / right
    ratio = values.abs().mean((-2, -1)).square() / square.mean((-2, -1))
    ratio = ratio * (skew**3 + 1) * (skew + 1) / (skew.square() + 1).square()
    # The ratio grows with the shape, so the shape is the nearest entry of a table.
    shapes = SHAPES.to(values.device)
    log1, log2, log3 = (torch.lgamma(k / shapes) for k in (1, 2, 3))
    ratios = torch.exp(2 * log2 - log1 - log3)
    shape = shapes[torch.searchsorted((ratios[1:] + ratios[:-1]) / 2, ratio)]
    scale = torch.exp((torch.lgamma(1 / shape) - torch.lgamma(3 / shape)) / 2)
    return shape, left * scale, right * scale
