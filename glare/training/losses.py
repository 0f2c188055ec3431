"""Losses of the stages. Images are (B,3,H,W), references in [0,1]."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from glare.metrics import WINDOW, ssim_maps

#: Weight of each scale, finest first (Wang et al., "Multi-scale structural similarity", 2003).
SCALES = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)


def ms_ssim(image: Tensor, reference: Tensor) -> Tensor:
    """Return the multi-scale structural similarity, a scalar: the mean over the batch.

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


def colour_loss(image: Tensor, reference: Tensor) -> Tensor:
    """Return the L1 distance of the 4×4 means after their grey is removed, a scalar.

    Both other terms live from structure, which colour hardly changes: a codebook that was trained without this one
    learns grey first, and keeps its few latent channels for that.
    """
    difference = F.avg_pool2d(image - reference, 4)
    return (difference - difference.mean(1, keepdim=True)).abs().mean()


def detail_loss(image: Tensor, reference: Tensor) -> Tensor:
    """Return the L1 distance of the three finest bands of a Laplacian pyramid, a scalar: their sum.

    Where a region is too dark or too bright, and in some measure every one is, the gradient of a plain L1 is the same
    at each of its pixels: grain costs nothing there. In a band it does (Bojanowski et al., "Optimizing the latent
    space of generative networks", ICML 2018).
    """
    rest = image - reference
    loss = image.new_zeros(())
    for _ in range(3):
        coarse = F.avg_pool2d(rest, 2)
        band = rest - F.interpolate(coarse, rest.shape[2:], mode="bilinear", align_corners=False)
        loss = loss + band.abs().mean()
        rest = coarse
    return loss


class Restoration(nn.Module):
    """L1 + 0.2·(1 − MS-SSIM) + 2·colour + 4·detail, and the distance that frozen networks, if there are any, see.

    The paper's stage III with L1 for smooth L1, terms for colour and detail (`colour_loss`, `detail_loss`), and LPIPS
    (Zhang et al., CVPR 2018) for its VGG term.

    Args:
        perceptual: (B,3,H,W) in [0,1] twice -> (B,), e.g. `glare.metrics.LPIPS`.
        features: (B,3,H,W) in [0,1] -> feature maps, e.g. of a detector: what it looks at is to be kept.
    """

    colour_weight = 2.0
    detail_weight = 4.0
    perceptual_weight = 0.05
    features_weight = 0.3

    def __init__(
        self,
        perceptual: Callable[[Tensor, Tensor], Tensor] | None = None,
        features: Callable[[Tensor], Sequence[Tensor]] | None = None,
    ) -> None:
        super().__init__()
        # Tuples hide the networks from `parameters` and `state_dict`: they are neither trained nor saved.
        self._frozen = (perceptual, features)

    def forward(self, image: Tensor, reference: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss, a scalar, and its parts, to log, for (B,3,H,W) float32 twice, the reference in [0,1].

        The image is not clamped: where it leaves [0,1], the gradient still leads back.
        """
        perceptual, features = self._frozen
        loss = F.l1_loss(image, reference) + 0.2 * (1.0 - ms_ssim(image, reference))
        colour, detail = colour_loss(image, reference), detail_loss(image, reference)
        parts = {"restoration": loss.detach(), "colour": colour.detach(), "detail": detail.detach()}
        loss = loss + self.colour_weight * colour + self.detail_weight * detail
        # The frozen networks cost 40 % of a step of the preset tiny, so they see half of a large batch. Crops are in
        # random order, so that the expected mean stays the same.
        seen = max(min(len(image), 4), len(image) // 2)
        image, reference = image[:seen], reference[:seen]
        if perceptual is not None:
            distance = perceptual(image, reference).mean()
            loss = loss + self.perceptual_weight * distance
            parts["perceptual"] = distance.detach()
        if features is not None:
            with torch.no_grad():
                wanted = features(reference)
            # Each level is in units of its own size.
            distance = torch.stack(
                [
                    F.l1_loss(found.float(), level.float()) / level.float().abs().mean()
                    for found, level in zip(features(image), wanted, strict=True)
                ]
            ).mean()
            loss = loss + self.features_weight * distance
            parts["features"] = distance.detach()
        return loss, parts


def build_by_name(name: str) -> Any:
    """Return what ``MODULE:CALLABLE`` or ``MODULE:CALLABLE:ARGUMENT`` builds.

    So a detector serves as a loss although nothing here knows of detectors: ``detection.hooks:features:yolo26n.pt``.

    Raises:
        ValueError: if the name is not of that form or the module has no such callable.
        ModuleNotFoundError: if the module is not there.
    """
    module, _, rest = name.partition(":")
    attribute, _, argument = rest.partition(":")
    if not module or not attribute:
        raise ValueError(f"Expected MODULE:CALLABLE or MODULE:CALLABLE:ARGUMENT but got {name!r}.")
    build = getattr(import_module(module), attribute, None)
    if not callable(build):
        raise ValueError(f"Expected module {module!r} to have a callable {attribute!r} but got {build!r}.")
    return build(argument) if argument else build()
