"""Losses of the stages. Images are (B,3,H,W), references in [0,1]."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from glare.metrics import WINDOW, ssim_maps

#: Weight of each scale, finest first (Wang et al., "Multi-scale structural similarity", 2003).
SCALES = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)


def ms_ssim(image: Tensor, reference: Tensor) -> Tensor:
    """Multi-scale structural similarity, a scalar: the mean over the batch.

    Small crops have fewer scales than five; the weights of those that fit are normalised. Negative structure, which
    a fractional power cannot take, counts as (nearly) zero.
    """
    scales = [i for i in range(len(SCALES)) if min(image.shape[2:]) // 2**i >= WINDOW]
    weights = torch.tensor([SCALES[i] for i in scales])
    weights = weights / weights.sum()
    result = image.new_ones(len(image))
    for i, weight in zip(scales, weights.tolist(), strict=True):
        structure, luminance = ssim_maps(image, reference)
        term = structure * luminance if i == scales[-1] else structure
        result = result * term.mean((1, 2, 3)).clamp(min=1e-4) ** weight
        image, reference = F.avg_pool2d(image, 2), F.avg_pool2d(reference, 2)
    return result.mean()


def restoration_loss(image: Tensor, reference: Tensor) -> Tensor:
    """L1 + 0.2·(1 − MS-SSIM): the paper's stage III without its VGG term, and with L1 for smooth L1.

    The image is not clamped: where it leaves [0,1], the gradient still leads back.
    """
    return F.l1_loss(image, reference) + 0.2 * (1.0 - ms_ssim(image, reference))
