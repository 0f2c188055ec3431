"""Stage II: the conditional encoder, which tells the flow and stage III what the low-light image shows (section 3.2).

The encoder turns the image into a feature that drives the flow, into the mean of the flow's base distribution, and into
the features that stage III takes the input's detail from.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from glare.config import GLAREConfig
from glare.image import log_input
from glare.layers import Encoder


class Condition(NamedTuple):
    """Features of a low-light image (B,3,H,W), as the conditional encoder makes them."""

    feature: Tensor  #: drives the flow, (B,F,h,w) in (0,1), of the latent's size
    mean: Tensor  #: mean of the base distribution, (B,C,h,w)
    #: one for each mix-up of stage III: encoder features at full and at 1/2 size, and before them, where
    #: `GLAREConfig.detail_channels` asks for it, the logarithm of the input itself
    skips: tuple[Tensor, ...]


class ConditionalEncoder(nn.Module):
    """The encoder of stage I on the logarithm of the low-light image, with two heads."""

    def __init__(self, config: GLAREConfig) -> None:
        super().__init__()
        self.detail = config.detail_channels > 0
        self.encoder = Encoder(config)
        self.feature = nn.Conv2d(config.latent_channels, config.condition_channels, 3, padding=1)
        self.mean = nn.Conv2d(config.latent_channels, config.latent_channels, 3, padding=1)

    def forward(self, low: Tensor) -> Condition:
        """Encode images (B,3,H,W) in [0,1], their sides multiples of `GLAREConfig.stride`."""
        seen = log_input(low)
        latent, skips = self.encoder(seen)
        return Condition(*self.heads(latent), (seen, *skips) if self.detail else skips)

    def heads(self, latent: Tensor) -> tuple[Tensor, Tensor]:
        """Return the feature and the mean of a `Condition` from the encoder's latent (B,C,h,w)."""
        return torch.sigmoid(self.feature(latent)), self.mean(latent)
