"""A camera at night, from the light of the scene to the file: the draw for training.

`glare.data.degrade` is a sensor and nothing behind it; the levels of the tests are made with it. Between sensor and
file a camera demosaics, balances, denoises, sharpens and compresses. What is left of the noise then has a colour and a
grain, or is gone together with the finest detail: most cameras' nights are dark, soft and almost clean, and there the
network must brighten and smooth nothing. It learns that from nights drawn here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.io import decode_jpeg, encode_jpeg
from torchvision.transforms.v2.functional import gaussian_blur, resize

from glare.data.degrade import linear_to_srgb, random_degrade, sample_cast, srgb_to_linear

#: Share of a bare sensor, as in the tests, and among the other nights the share of a quiet camera.
SENSOR_SHARE, QUIET_SHARE = 0.3, 0.55

#: Kernels by which Malvar, He and Cutler ("High-quality linear interpolation for demosaicing of Bayer-patterned color
#: images", ICASSP 2004, figure 2) fill in what a filter of the mosaic did not see, in eighths: green at red or blue,
#: red at green in red's rows, red at green in blue's rows, red at blue; and the same for blue.
_GREEN = [[0, 0, -1, 0, 0], [0, 0, 2, 0, 0], [-1, 2, 4, 2, -1], [0, 0, 2, 0, 0], [0, 0, -1, 0, 0]]
_IN_ROW = [[0, 0, 0.5, 0, 0], [0, -1, 0, -1, 0], [-1, 4, 5, 4, -1], [0, -1, 0, -1, 0], [0, 0, 0.5, 0, 0]]
_IN_COLUMN = [list(row) for row in zip(*_IN_ROW, strict=True)]
_ACROSS = [[0, 0, -1.5, 0, 0], [0, 2, 0, 2, 0], [-1.5, 0, 6, 0, -1.5], [0, 2, 0, 2, 0], [0, 0, -1.5, 0, 0]]


@dataclass(frozen=True)
class Draw:
    """Random numbers of one generator."""

    generator: torch.Generator | None

    def uniform(self, low: float = 0.0, high: float = 1.0) -> float:
        """Draw a number between two."""
        return low + (high - low) * float(torch.rand((), generator=self.generator))

    def log_uniform(self, low: float, high: float) -> float:
        """Draw a number between two, log-uniform."""
        return float(low * (high / low) ** self.uniform())

    def chance(self, share: float) -> bool:
        """Return True in this share of the cases."""
        return self.uniform() < share

    def normal(self, *shape: int) -> Tensor:
        """Draw standard normal numbers."""
        return torch.randn(shape, generator=self.generator)


def random_night(image: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Darken one image as some camera might on some night.

    Three nights in ten are a bare sensor's (`glare.data.degrade.random_degrade`). The others pass a camera: uneven
    light and clipped lamps; in few cases defocus or motion; a Bayer mosaic under the white balance of night (gains as
    in Brooks et al., "Unprocessing images for learned raw denoising", CVPR 2019), with shot, read and row noise (Wei
    et al., "A physics-based noise formation model for extreme low-light raw denoising", CVPR 2020); demosaicing,
    balance with its error, denoising, tone, sharpening, in some cases resizing (Wang et al., "Real-ESRGAN", ICCVW
    2021), and JPEG. Over half of them are quiet: a sensor ten times as deep, and a denoiser that takes most of the
    rest.

    Args:
        image: (3, H, W) float on the CPU, sRGB in [0,1], by day.
        generator: source of every draw.

    Returns:
        (3, H, W) float, sRGB in [0,1], on the 8-bit grid.

    >>> night = random_night(torch.full((3, 64, 64), 0.5), torch.Generator().manual_seed(0))
    >>> night.shape, bool(night.mean() < 0.5)
    (torch.Size([3, 64, 64]), True)
    """
    draw = Draw(generator)
    if draw.chance(SENSOR_SHARE):
        return random_degrade(image, generator)
    quiet = draw.chance(QUIET_SHARE)
    size = list(image.shape[1:])
    light = srgb_to_linear(image)
    if draw.chance(0.2):  # stored smaller than it was taken
        scale = draw.uniform(1.2, 2.0)
        light = resize(light, [round(side * scale) for side in size], antialias=False)
    light = _blurred(_lit(light, draw), draw) * draw.log_uniform(0.008, 0.4)
    night = _developed(light, quiet, draw)
    if night.shape[1:] != image.shape[1:]:
        night = resize(night, size, antialias=True)
    stored = (night.clamp(0, 1) * 255).round().to(torch.uint8)
    if draw.chance(0.7):
        stored = decode_jpeg(
            encode_jpeg(stored, quality=round(draw.uniform(50, 95)))
        )  # colour at half the size
    return stored.to(image.dtype) / 255


def _lit(light: Tensor, draw: Draw) -> Tensor:
    """Linear light (3,H,W) under a slow gradient in some cases, and with lamps that stay bright in others."""
    if draw.chance(0.3):
        field = 0.5 * draw.normal(1, 1, 3, 3)
        field = F.interpolate(field, light.shape[1:], mode="bicubic", align_corners=True)[0].exp()
        light = light * field / field.mean()
    if draw.chance(0.15):
        luma = light.mean(0)
        brightest = torch.quantile(luma.flatten()[:: max(1, luma.numel() // 10_000)], 0.98)
        light = light * (1.0 + draw.log_uniform(3.0, 30.0) * torch.sigmoid((luma - brightest) / 0.05))
    return light


def _blurred(light: Tensor, draw: Draw) -> Tensor:
    """Linear light (3,H,W), in one case of ten out of focus or moved."""
    if not draw.chance(0.1):
        return light
    if draw.chance(0.5):
        soft: Tensor = gaussian_blur(light, [7, 7], [draw.uniform(0.5, 1.3)])
        return soft
    length, angle = draw.uniform(2.0, 8.0), draw.uniform(0.0, math.pi)
    along = torch.linspace(-length / 2, length / 2, 33)
    kernel = torch.zeros(9, 9)
    rows, columns = (along * math.sin(angle) + 4).round().long(), (along * math.cos(angle) + 4).round().long()
    kernel.index_put_((rows, columns), torch.ones(33), accumulate=True)
    padded = F.pad(light[:, None], (4, 4, 4, 4), mode="replicate")
    return F.conv2d(padded, (kernel / kernel.sum())[None, None])[:, 0]


def _developed(light: Tensor, quiet: bool, draw: Draw) -> Tensor:
    """Develop linear light (3,H,W) as a camera does: sRGB, not clamped."""
    gains = torch.tensor([draw.uniform(1.2, 2.4), 1.0, draw.uniform(1.4, 2.4)]).view(3, 1, 1)
    red = (int(draw.chance(0.5)), int(draw.chance(0.5)))
    raw = mosaic((light / gains).clamp(max=1.0), red)
    well = draw.log_uniform(3_000.0, 50_000.0) if quiet else draw.log_uniform(300.0, 5_000.0)
    electrons = torch.poisson(raw * well, generator=draw.generator)
    electrons = electrons + draw.uniform(1.0, 6.0) * draw.normal(*raw.shape)
    if draw.chance(0.2):
        electrons = electrons + draw.uniform(0.1, 1.0) * draw.normal(raw.shape[0], 1)
    raw = electrons / well
    if draw.chance(0.5):
        raw = raw.clamp(min=0.0)  # without a black level that would keep negative values
    night = (
        demosaic(raw, red, smooth=draw.chance(0.3)) * gains * sample_cast(draw.generator, 0.08).view(3, 1, 1)
    )
    night = linear_to_srgb(night.clamp(0.0, 1.0))
    strength = draw.uniform(0.7, 2.5) if quiet else draw.uniform(0.0, 1.0)
    night = denoise(night, strength, radius=2 + int(draw.chance(0.5)))
    night = night.clamp(min=0.0) ** math.exp(draw.uniform(-0.12, 0.12))
    if draw.chance(0.6):
        night = night + draw.uniform(0.1, 1.0) * (night - _box(night, 1))
    return night


def mosaic(light: Tensor, red: tuple[int, int]) -> Tensor:
    """Return the mosaic (H,W) of an image (3,H,W) under a Bayer filter, red at rows and columns of parities ``red``."""
    row, column = red
    raw = light[1].clone()
    raw[row::2, column::2] = light[0, row::2, column::2]
    raw[1 - row :: 2, 1 - column :: 2] = light[2, 1 - row :: 2, 1 - column :: 2]
    return raw


def demosaic(raw: Tensor, red: tuple[int, int], smooth: bool = False) -> Tensor:
    """Interpolate all three colours at each position of a mosaic: (H,W) -> (3,H,W), by Malvar, He and Cutler.

    Args:
        raw: see `mosaic`.
        red: see `mosaic`.
        smooth: plain bilinear interpolation, as the simplest cameras have it.
    """
    row, column = red
    kernels = torch.tensor([_GREEN, _IN_ROW, _IN_COLUMN, _ACROSS], dtype=raw.dtype) / 8
    if smooth:
        kernels = torch.zeros(4, 5, 5, dtype=raw.dtype)
        kernels[0, 1:4, 1:4] = torch.tensor([[0, 1, 0], [1, 0, 1], [0, 1, 0]]) / 4
        kernels[1, 2, 1], kernels[1, 2, 3] = 0.5, 0.5
        kernels[2, 1, 2], kernels[2, 3, 2] = 0.5, 0.5
        kernels[3, 1:4, 1:4] = torch.tensor([[1, 0, 1], [0, 0, 0], [1, 0, 1]]) / 4
    padded = F.pad(raw[None, None], (2, 2, 2, 2), mode="reflect")  # so that the colours keep their places
    green, in_row, in_column, across = F.conv2d(padded, kernels[:, None])[0]
    result = torch.stack((raw, raw, raw))
    for colour, (r, c) in ((0, (row, column)), (2, (1 - row, 1 - column))):
        result[1, r::2, c::2] = green[r::2, c::2]
        result[colour, r::2, 1 - c :: 2] = in_row[r::2, 1 - c :: 2]
        result[colour, 1 - r :: 2, c::2] = in_column[1 - r :: 2, c::2]
        result[colour, 1 - r :: 2, 1 - c :: 2] = across[1 - r :: 2, 1 - c :: 2]
    return result


def denoise(image: Tensor, strength: float, radius: int) -> Tensor:
    """Denoise (3,H,W) as a camera does: a guided filter (He et al., "Guided image filtering", ECCV 2010).

    Brightness is its own guide; colour, of which more is taken away, is guided by that.

    Args:
        image: sRGB.
        strength: 0 leaves the image as it is; at 1 what is kept must stand above the noise that the camera finds.
        radius: of the window in which it smooths, in pixels.
    """
    if strength == 0.0:
        return image
    luma = image.mean(0, keepdim=True)
    # A 3×3 mean removes 0.94 of the deviation of white noise, whose mean size is 0.80 of that.
    noise = (luma - _box(luma, 1)).abs().mean() / 0.75
    colour = image - luma
    luma = _guided(luma, luma, radius, (strength * noise).square())
    return luma + _guided(colour, luma, 2 * radius, (strength * noise).square())


def _guided(image: Tensor, guide: Tensor, radius: int, floor: Tensor) -> Tensor:
    """(C,H,W) as locally linear in the guide (1,H,W), whose variance counts above ``floor``."""
    mean, guide_mean = _box(image, radius), _box(guide, radius)
    variance = (_box(guide.square(), radius) - guide_mean.square()).clamp(min=0.0)
    slope = (_box(image * guide, radius) - mean * guide_mean) / (variance + floor + 1e-8)
    return _box(slope, radius) * guide + _box(mean - slope * guide_mean, radius)


def _box(image: Tensor, radius: int) -> Tensor:
    """Return the mean over the square of a radius, at the border over the part of it that lies within."""
    # A summed-area table takes a tenth of the time of `F.avg_pool2d`.
    sums = image.double()
    for dim in (1, 2):
        at = torch.arange(image.shape[dim])
        first, last = (at - radius).clamp(min=0), (at + radius + 1).clamp(max=len(at))
        table = F.pad(sums.cumsum(dim), (0, 0, 1, 0) if dim == 1 else (1, 0))
        sums = table.index_select(dim, last) - table.index_select(dim, first)
        sums = sums / (last - first).view((-1, 1) if dim == 1 else (-1,))
    return sums.to(image.dtype)
