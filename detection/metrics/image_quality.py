"""Image quality: distance from a reference (PSNR, SSIM, LPIPS), or naturalness without one (NIQE).

A metric is an entry of a list, see `Metric`. Images have the 8 bits that would be stored.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from detection.data.core import Pixels
from glare import metrics
from glare.niqe import NIQE

GT_MEAN = " GT-mean"
"""Ends the names of metrics that use the reference's brightness, see `gt_mean`."""
_BAND = 64
"""Rows of an image of which SSIM is computed at once."""


@dataclass(frozen=True)
class Metric:
    """One figure of an image.

    An evaluation uses metrics that need a reference where there is one, and the others where there is none.

    Attributes:
        name: of its column.
        measure: function of an image, (H, W, 3) uint8 RGB, and with `needs_reference` of a second one, the reference.
        needs_reference: whether it compares the image with a reference.
        higher_is_better: whether a higher figure is better.

    >>> darkness = Metric("darkness", lambda image: float(255 - image.mean()), needs_reference=False)
    >>> darkness(np.full((4, 4, 3), 55, np.uint8))
    200.0
    """

    name: str
    measure: Callable[..., float]
    needs_reference: bool = True
    higher_is_better: bool = True

    def __call__(self, image: Pixels, reference: Pixels | None = None) -> float:
        """Return the figure of an image, (H, W, 3) uint8 RGB; NaN without the reference that it needs.

        Raises:
            ValueError: if the image is one that it cannot judge, such as one smaller than its window.
        """
        if not self.needs_reference:
            return self.measure(image)
        return float("nan") if reference is None else self.measure(image, reference)


def psnr(image: NDArray[Any], reference: NDArray[Any]) -> float:
    """Return the peak signal-to-noise ratio in dB over all channels of two RGB images; see `ssim`.

    >>> round(psnr(np.full((4, 4, 3), 100, np.uint8), np.full((4, 4, 3), 110, np.uint8)), 2)
    28.13
    """
    if image.dtype == reference.dtype == np.uint8:
        import cv2

        squares = cv2.norm(image, reference, cv2.NORM_L2SQR)  # exact, without conversion to floats
        return float(10 * np.log10(255**2 * image.size / squares)) if squares else float("inf")
    return float(metrics.psnr(as_tensor(image), as_tensor(reference)))


def ssim(image: NDArray[Any], reference: NDArray[Any]) -> float:
    """Return the structural similarity of two RGB images, the mean over the channels.

    The same as `glare.metrics.ssim`, to 1e-6 on photographs and 1e-4 on any images, in a fraction of its time on a CPU:
    behind a cheap enhancer that was most of a run.

    Args:
        image: (H, W, 3) uint8, or float in [0,1].
        reference: likewise.

    Raises:
        ValueError: if the images measure less than 11 pixels.
    """
    if min(image.shape[:2]) < metrics.WINDOW:
        raise ValueError(f"Expected images of at least 11×11 but got {image.shape[0]}×{image.shape[1]}.")
    height, width, channels = image.shape
    beyond = metrics.WINDOW - 1
    (x, mean_x), (y, mean_y) = (_centred(pixels) for pixels in (image, reference))
    total = 0.0
    # In bands, so that intermediate maps stay in the processor's cache.
    for top in range(0, height - beyond, _BAND):
        rows = slice(top, top + _BAND + beyond)
        total += float(_ssim_map(x[rows], y[rows], mean_x, mean_y).sum(dtype=np.float64))
    return total / float((height - beyond) * (width - beyond) * channels)


def _centred(pixels: NDArray[Any]) -> tuple[NDArray[np.float32], float]:
    """Return an image in [0,255] less its mean, and that mean."""
    values = pixels.astype(np.float32)
    if pixels.dtype != np.uint8:
        values *= 255
    mean = float(values.mean(dtype=np.float64))
    values -= mean
    return values, mean


def _ssim_map(x: NDArray[Any], y: NDArray[Any], mean_x: float, mean_y: float) -> NDArray[Any]:
    """Return SSIM at every position where the window fits, of images less their means.

    Variances are differences of nearly equal numbers: without the means float32 has enough digits for them.
    """
    import cv2

    edge = metrics.WINDOW // 2

    def mean(values: NDArray[Any]) -> NDArray[Any]:
        blurred: NDArray[Any] = cv2.GaussianBlur(values, (metrics.WINDOW,) * 2, metrics.SIGMA)
        return blurred[edge:-edge, edge:-edge]

    near_x, near_y = mean(x), mean(y)
    covariance = mean(x * y) - near_x * near_y
    variances = mean(x * x + y * y) - (near_x * near_x + near_y * near_y)  # the sum of both
    near_x, near_y = near_x + mean_x, near_y + mean_y
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    values: NDArray[Any] = (2 * near_x * near_y + c1) * (2 * covariance + c2)
    values /= (near_x * near_x + near_y * near_y + c1) * (variances + c2)
    return values


def lpips(network: nn.Module) -> Metric:
    """Return LPIPS as a metric, on the device of a `glare.metrics.LPIPS`; it raises ValueError below 31 pixels."""

    def measure(image: NDArray[Any], reference: NDArray[Any]) -> float:
        device = next(network.parameters()).device
        with torch.inference_mode():
            return float(network(*(as_tensor(i).float().to(device) for i in (image, reference))))

    return Metric("LPIPS", measure, higher_is_better=False)


def gt_mean(metric: Metric) -> Metric:
    """Return a metric of images that are first scaled to the mean grey level of their reference.

    Such a metric uses the answer, which nobody has who restores a photograph. Quote the plain figures.
    """

    def measure(image: Pixels, reference: Pixels) -> float:
        aligned = metrics.gt_mean(as_tensor(image), as_tensor(reference))
        return metric.measure(aligned[0].permute(1, 2, 0).contiguous().numpy(), reference)

    return replace(metric, name=metric.name + GT_MEAN, measure=measure)


def niqe(image: Pixels) -> float:
    """Return NIQE (see `glare.niqe`); lower is more natural.

    Raises:
        ValueError: if the image measures, or has grain on, less than two blocks of 96×96.
    """
    value = float(_niqe()(as_tensor(image)))
    if np.isnan(value):
        raise ValueError("less than two blocks of 96×96 have grain")
    return value


@cache
def _niqe() -> NIQE:
    return NIQE()


def where_defined(metric: Metric) -> Metric:
    """Return a metric that is NaN for an image that it cannot judge, instead of a fault of that image."""

    def measure(*images: Pixels) -> float:
        try:
            return metric.measure(*images)
        except ValueError:
            return float("nan")

    return replace(metric, measure=measure)


METRICS = {
    "PSNR": Metric("PSNR", psnr),
    "SSIM": Metric("SSIM", ssim),
    # Its column says whose model of photographs it is by: nobody shall put it beside published figures.
    "NIQE": Metric("NIQE (own model)", niqe, needs_reference=False, higher_is_better=False),
}
"""The metrics that need nothing, by the names that ask for them."""


def _full_y(image: Pixels) -> Tensor:
    """Return the luma, 0.299 R + 0.587 G + 0.114 B, as (1, 1, H, W) in [0,1]."""
    return (as_tensor(image) * torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(1, keepdim=True)


def _limited_y(image: Pixels) -> Tensor:
    """Return the luma of limited range, from 16/255 for black to 235/255 for white, as (1, 1, H, W)."""
    return 16 / 255 + (as_tensor(image) * torch.tensor([65.481, 128.553, 24.966]).view(3, 1, 1) / 255).sum(
        1, keepdim=True
    )


def _reduced(image: Pixels) -> Tensor:
    """Average an image down to about 256 pixels on its shorter side, (1, 3, h, w)."""
    return F.avg_pool2d(as_tensor(image), max(1, round(min(image.shape[:2]) / 256)))


def _of(
    function: Callable[[Tensor, Tensor], Tensor], convert: Callable[[Pixels], Tensor]
) -> Callable[..., float]:
    return lambda image, reference: float(function(convert(image), convert(reference)))


def _ssim_of_8_bits(image: Tensor, reference: Tensor) -> Tensor:
    """Return SSIM of images that are rounded to 8 bits; where the structure is negative it is 0."""
    structure, luminance = metrics.ssim_maps(*((255 * one).round() / 255 for one in (image, reference)))
    return (structure.relu() * luminance).mean()


DEFINITIONS = {
    "pyiqa-y": (
        Metric("PSNR pyiqa-y", _of(metrics.psnr, _full_y)),
        Metric("SSIM pyiqa-y", _of(_ssim_of_8_bits, _full_y)),
    ),
    "basicsr-y": (
        Metric("PSNR basicsr-y", _of(metrics.psnr, _limited_y)),
        Metric("SSIM basicsr-y", _of(metrics.ssim, _limited_y)),
    ),
    "piq": (Metric("SSIM piq", _of(metrics.ssim, _reduced)),),
}
"""What others call PSNR and SSIM, for who must compare with them, beside the plain ones: see docs/metrics.md."""


def by_name(wanted: Iterable[str | Metric]) -> tuple[Metric, ...]:
    """Return metrics, those of `METRICS` by their names.

    Raises:
        ValueError: if there is none of a name.
    """
    found = []
    for one in wanted:
        if isinstance(one, str) and one not in METRICS:
            raise ValueError(
                f"Expected argument `metrics` to be metrics, or names out of {', '.join(METRICS)}, but got {one!r}."
            )
        found.append(METRICS[one] if isinstance(one, str) else one)
    return tuple(found)


def unit(image: NDArray[Any]) -> NDArray[np.float64]:
    """Convert (H, W, 3) uint8, or float in [0,1], to float64 in [0,1]."""
    return image / 255.0 if image.dtype == np.uint8 else image.astype(np.float64)


def as_tensor(image: NDArray[Any]) -> Tensor:
    """Convert (H, W, 3) uint8, or float in [0,1], to (1, 3, H, W) float64 in [0,1]."""
    return torch.from_numpy(unit(image)).permute(2, 0, 1)[None]
