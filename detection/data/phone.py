"""A telephone's camera at night: a second way to darken test sets, which training never uses.

`glare.data.camera`, which training uses, demosaics by linear filters and denoises by a guided filter. This module
uses OpenCV's edge-aware demosaicing and OpenCV's non-local means (Buades et al., "A non-local algorithm for image
denoising", CVPR 2005): the remaining noise is soft and blotched. A network that gains on the bare sensor of
`glare.data.degrade` alone has learned that sensor.
"""

from __future__ import annotations

import io

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from detection.data.core import Pixels
from glare.data.camera import mosaic
from glare.data.degrade import linear_to_srgb, srgb_to_linear

#: Electrons of a white pixel at exposure 1, and deviation of the read noise: four merged frames of 800 and of 2.
FULL_WELL, READ_NOISE = 3200.0, 4.0
#: The converter's greatest value, and its value without light.
WHITE, BLACK = 4095, 256
#: White balance by lamplight: red, green, blue.
GAINS = (1.5, 1.0, 2.1)
#: Quality of the JPEG.
QUALITY = 90


def phone(clean: Pixels, exposure: float, generator: torch.Generator) -> Pixels:
    """Take the photograph again in little light, as a telephone does.

    Args:
        clean: (H,W,3) uint8 RGB, by day, of any height and width.
        exposure: factor on linear light, above 0.
        generator: source of the noise; the same state gives the same image.

    Returns:
        (H,W,3) uint8 RGB, decoded from a JPEG.
    """
    import cv2

    height, width = clean.shape[:2]
    even = np.pad(clean, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    gains = torch.tensor(GAINS)
    light = (srgb_to_linear(torch.from_numpy(even).float() / 255) * exposure / gains).clamp(max=1.0)
    raw = mosaic(light.movedim(2, 0), red=(0, 0))
    electrons = torch.poisson(raw * FULL_WELL, generator=generator)
    electrons = electrons + READ_NOISE * torch.randn(raw.shape, generator=generator)
    counts = (BLACK + electrons / FULL_WELL * (WHITE - BLACK)).round().clamp(0, WHITE)
    # OpenCV names a mosaic by its second row and column, so a mosaic with red in the first row is BG there.
    colours = cv2.demosaicing(counts.numpy().astype(np.uint16), cv2.COLOR_BayerBG2RGB_EA)
    developed = (torch.from_numpy(colours.astype(np.float32)) - BLACK) / (WHITE - BLACK) * gains
    noisy = (linear_to_srgb(developed.clamp(0, 1)) * 255).round().to(torch.uint8).numpy()[:height, :width]
    # Demosaicing has spread the noise, and hidden some from the measure.
    strength = 2.5 * noise_deviation(noisy)
    smooth = cv2.fastNlMeansDenoisingColored(
        np.ascontiguousarray(noisy), None, h=strength, hColor=3 * strength, searchWindowSize=15
    )
    stored = io.BytesIO()
    Image.fromarray(smooth).save(stored, "JPEG", quality=QUALITY)
    return np.array(Image.open(stored))


def noise_deviation(image: Pixels) -> float:
    """Estimate the standard deviation of white noise in an image (H,W,3) uint8, in grey levels.

    The estimate is the scaled median of the finest diagonal differences (Donoho and Johnstone, "Ideal spatial
    adaptation by wavelet shrinkage", Biometrika 1994).
    """
    height, width = image.shape[0] // 2 * 2, image.shape[1] // 2 * 2
    luma: NDArray[np.float32] = image[:height, :width].mean(2, dtype=np.float32)
    diagonal = (luma[::2, ::2] - luma[1::2, ::2] - luma[::2, 1::2] + luma[1::2, 1::2]) / 2
    return float(np.median(np.abs(diagonal)) / 0.6745)
