"""The straightforward form of the same network, operation by operation as it was published, for tests and ratios."""

import copy

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import deform_conv2d

from glare.codebook import Quantizer
from glare.condition import Condition
from glare.fusion import MixUp, Warp
from glare.layers import Attention, ResidualBlock, Upsample
from glare.model import GLARE


class PlainResidualBlock(ResidualBlock):
    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(F.silu(self.norm2(h)))
        result: Tensor = self.shortcut(x) + h
        return result


class PlainAttention(Attention):
    """Attention that stores the map of all positions against all."""

    def forward(self, x: Tensor) -> Tensor:
        b, c, height, width = x.shape
        h = context = self.norm(x)
        if self.grid is not None and (height > self.grid or width > self.grid):
            context = F.adaptive_avg_pool2d(h, (min(height, self.grid), min(width, self.grid)))
        q, k, v = self.q(h).flatten(2), self.k(context).flatten(2), self.v(context).flatten(2)
        weights = torch.softmax(q.mT @ k * c**-0.5, 2)
        result: Tensor = x + self.proj((v @ weights.mT).view(b, c, height, width))
        return result


class PlainUpsample(Upsample):
    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
        return result


class PlainQuantizer(Quantizer):
    """Quantizer that holds all distances at once."""

    def nearest(self, latent: Tensor) -> Tensor:
        codes = self.embedding.weight.float()
        flat = latent.float().movedim(1, -1).reshape(-1, codes.shape[1])
        with torch.autocast(latent.device.type, enabled=False):
            distances = flat.square().sum(1, keepdim=True) + codes.square().sum(1) - 2.0 * flat @ codes.T
        return distances.argmin(1).view(latent.shape[0], *latent.shape[2:])


class PlainMixUp(MixUp):
    def forward(self, skip: Tensor, h: Tensor, fidelity: float) -> Tensor:
        share = (fidelity * torch.sigmoid(self.theta)).clamp(max=1.0)
        return share * skip + (1.0 - share) * h


class PlainWarp(Warp):
    def forward(self, code: Tensor, target: Tensor) -> Tensor:
        raw = self.offsets(self.guide(torch.cat((code, target), 1)))
        offset, mask = raw.float().split((self.groups * 18, self.groups * 9), 1)
        with torch.autocast(code.device.type, enabled=False):
            code = code.float()
            if isinstance(self.reduce, torch.nn.Conv2d):
                code = F.conv2d(code, self.reduce.weight, self.reduce.bias)
            warped: Tensor = deform_conv2d(
                code, offset, self.weight, self.bias, padding=1, mask=torch.sigmoid(mask)
            )
            return warped


class PlainGLARE(GLARE):
    """GLARE with a VQ decoder that runs to its end, the image."""

    def restore_latent(self, low: Tensor) -> tuple[Tensor, Condition]:
        condition: Condition = self.condition(low)
        latent, _ = self.flow.inverse(condition.mean, condition.feature)
        if self.config.latent_limit is not None:
            latent = latent.clamp(-self.config.latent_limit, self.config.latent_limit)
        return latent, condition

    def code_features(self, latent: Tensor) -> list[Tensor | None]:
        decoder = self.codebook.decoder
        quarter = decoder.to_quarter(self.codebook.codes(latent))
        half = decoder.to_half(quarter)
        full = decoder.to_full(half)
        decoder.image(full)
        return [full, half, quarter]


PLAIN = (PlainResidualBlock, PlainAttention, PlainUpsample, PlainQuantizer, PlainMixUp, PlainWarp)


def straightforward(model: GLARE) -> GLARE:
    """Return a copy of ``model``, as `glare.weights.load` gives it, that computes the straightforward way."""
    result = copy.deepcopy(model).to(memory_format=torch.contiguous_format)
    for module in result.modules():
        for plain in (*PLAIN, PlainGLARE):
            if type(module) is plain.__base__:
                module.__class__ = plain
    return result
