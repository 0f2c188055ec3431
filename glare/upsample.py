"""Enhancement at a part of the size, with the detail of the whole: half the size has a quarter of the pixels.

As in a guided filter (He, Sun and Tang, "Guided Image Filtering", 2013; "Fast Guided Filter", 2015) `upsample`
fits a line around each pixel of the small image, from luma to the result. The slope of the line is the local gain of
detail: the detail that only the large image shows is multiplied by the slope and added. Noise, which the small result
does not follow, stays out.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

#: Radius, in pixels of the small image, of the square over which a line is fitted.
RADIUS = 2
#: Variance of luma that counts as noise: a deviation of a hundredth of the range.
NOISE = 1e-4


def downsample(image: Tensor, scale: float) -> Tensor:
    """Shrink (B,3,H,W) to ``scale`` of its size, at least a pixel a side; the values stay in their range."""
    size = [max(1, round(scale * side)) for side in image.shape[2:]]
    return F.interpolate(image, size, mode="bilinear", antialias=True, align_corners=False)


def upsample(small: Tensor, result: Tensor, image: Tensor) -> Tensor:
    """Enlarge the result of a small image to the size of the large image.

    Args:
        small: (B,3,h,w) in [0,1].
        result: the network's result on the small image, (B,3,h,w).
        image: the large image, (B,3,H,W) in [0,1].

    Returns:
        The result at the size of the large image, (B,3,H,W).
    """
    luma = _luma(small)
    mean = _mean(luma)
    slope = (_mean(luma * result) - mean * _mean(result)) / (_mean(luma.square()) - mean.square() + NOISE)
    maps = F.interpolate(
        torch.cat((result, slope, luma), 1), image.shape[2:], mode="bilinear", align_corners=False
    )
    large, slope, luma = torch.split(maps, [3, 3, 1], 1)
    return torch.addcmul(large, slope, _luma(image) - luma)


def _luma(image: Tensor) -> Tensor:
    weights = image.new_tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)
    return (image * weights).sum(1, keepdim=True)


def _mean(image: Tensor) -> Tensor:
    side = 2 * RADIUS + 1
    return F.avg_pool2d(F.pad(image, (RADIUS,) * 4, mode="replicate"), side, 1)
