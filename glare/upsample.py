"""The network at a part of the size, its gain map at the whole: a fourth of the pixels at half the size.

As in a guided filter (He, Sun and Tang, "Guided Image Filtering", 2013; "Fast Guided Filter", 2015) a line is fitted
around each pixel of the small image, from its luma to the result. Its slope is the gain of detail there: what the
large image shows beyond the small one comes back multiplied by it. Noise, which the small result does not follow,
stays out.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

#: Pixels of the small image to each side of one over which a line is fitted.
RADIUS = 2
#: Variance of luma that counts as noise: of a hundredth of the range.
NOISE = 1e-4


def downsample(image: Tensor, scale: float) -> Tensor:
    """(B,3,H,W) -> the same at ``scale`` of its size, at least a pixel a side; values stay in their range."""
    size = [max(1, round(scale * side)) for side in image.shape[2:]]
    return F.interpolate(image, size, mode="bilinear", antialias=True, align_corners=False)


def upsample(small: Tensor, result: Tensor, image: Tensor) -> Tensor:
    """What was made of a small image, at the size of the large one.

    Args:
        small: (B,3,h,w) in [0,1].
        result: what it became, (B,3,h,w).
        image: the large image, (B,3,H,W) in [0,1].

    Returns:
        (B,3,H,W).
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
