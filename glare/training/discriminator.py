"""The patch discriminator of stage I: is this patch a photograph or a reconstruction?

Isola et al., "Image-to-Image Translation with Conditional Adversarial Networks", CVPR 2017; in a VQGAN with the hinge
loss and an adaptive weight: Esser et al., "Taming Transformers", CVPR 2021, equation 7.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call


class PatchDiscriminator(nn.Sequential):
    """4×4 convolutions, three of stride 2: a verdict for every patch of 70 pixels.

    GroupNorm stands in for the usual BatchNorm: the verdict on an image must not depend on its neighbours.
    """

    def __init__(self, channels: int = 32) -> None:
        layers: list[nn.Module] = [nn.Conv2d(3, channels, 4, 2, 1), nn.LeakyReLU(0.2)]
        for stride in (2, 2, 1):
            layers += [
                nn.Conv2d(channels, 2 * channels, 4, stride, 1, bias=False),
                nn.GroupNorm(8, 2 * channels),
                nn.LeakyReLU(0.2),
            ]
            channels *= 2
        super().__init__(*layers, nn.Conv2d(channels, 1, 4, 1, 1))

    def own_loss(self, image: Tensor, reference: Tensor) -> Tensor:
        """Return the hinge loss of the discriminator, a scalar, for (B,3,H,W) twice; no gradient reaches ``image``."""
        return 0.5 * (F.relu(1.0 - self(reference)).mean() + F.relu(1.0 + self(image.detach())).mean())

    def loss_for(self, image: Tensor) -> Tensor:
        """Return the generator's loss, a scalar; no gradient reaches the discriminator's parameters."""
        fixed = {name: parameter.detach() for name, parameter in self.named_parameters()}
        verdict: Tensor = functional_call(self, fixed, image)
        return -verdict.mean()


def adaptive_weight(restoration: Tensor, adversarial: Tensor, last: Tensor) -> Tensor:
    """Return ‖∇ restoration‖ / ‖∇ adversarial‖ at the decoder's last weight, a scalar of at most 1e4."""
    wanted, unwanted = (
        torch.autograd.grad(loss, last, retain_graph=True)[0].float().norm()
        for loss in (restoration, adversarial)
    )
    weight: Tensor = (wanted / (unwanted + 1e-4)).clamp(max=1e4)
    return weight
