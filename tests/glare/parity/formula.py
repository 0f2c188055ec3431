"""Weights and images as a function of names: what the reference numbers of the official network were taken with.

A tensor is drawn by a generator seeded with the CRC-32 of its official name, then scaled by a rule of that name.
"""

import math
import zlib

import torch
from torch import Tensor


def tensor(name: str, shape: list[int]) -> Tensor:
    """The float32 entry ``name`` of an official ``state_dict``."""
    noise = torch.randn(tuple(shape), generator=torch.Generator().manual_seed(zlib.crc32(name.encode())))
    leaf = name.rpartition(".")[2]
    last_of_coupling = ".fAffine.4." in name or ".fFeatures.4." in name
    if name.endswith("invconv.weight"):
        q, r = torch.linalg.qr(noise.double())
        return (q * r.diagonal().sign()).float()
    if name.endswith(("mix.0.w", "mix.1.w")):
        return torch.full(tuple(shape), -1.0 if name.endswith("0.w") else -0.6)
    if name == "quantize.embedding.weight":
        return noise
    if leaf == "logs":
        at_latent = not last_of_coupling and ".affine." not in name
        return 0.1 * noise + (0.2 if at_latent else 0.0)
    if name.endswith(("actnorm.bias",)):
        return 0.1 * noise
    if name.endswith((".dcn.bias", "residual_conv.bias")):
        return 0.02 * noise + 0.5
    if len(shape) == 1:
        return 1 + 0.1 * noise if leaf == "weight" else 0.02 * noise
    gain = (
        0.3
        if name == "deformable_decoder.residual_conv.weight" or (last_of_coupling and leaf == "weight")
        else 1.0
    )
    return gain * noise / math.sqrt(math.prod(shape[1:]))


def images(height: int = 64, width: int = 96) -> tuple[Tensor, Tensor]:
    """A normal-light image and its low-light partner, (1,3,H,W) in [0,1], on the 8-bit grid."""
    generator = torch.Generator().manual_seed(62)
    y = torch.linspace(0, 1, height)[None, :, None]
    x = torch.linspace(0, 1, width)[None, None, :]
    phase = 6.0 * torch.rand(3, 1, 1, generator=generator)
    frequency = 3 + 9 * torch.rand(3, 1, 1, generator=generator)
    gt = 0.45 + 0.25 * torch.sin(frequency * x + phase) * torch.cos(frequency * y - phase) + 0.2 * (x - y)
    gt[:, 12:28, 20:44] = torch.tensor([0.8, 0.3, 0.2])[:, None, None]
    gt[:, 36:56, 60:84] = torch.tensor([0.1, 0.5, 0.7])[:, None, None]
    gt = gt.clamp(0, 1)
    low = (0.12 * gt**1.4 + 0.01 * torch.randn(3, height, width, generator=generator)).clamp(0, 1)
    return tuple((255 * image).round()[None] / 255 for image in (gt, low))  # type: ignore[return-value]
