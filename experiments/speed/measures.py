"""The measures that make the network fast: how to take each back, and the bytes that it saves."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode

from experiments.straightforward import (
    PlainAttention,
    PlainGLARE,
    PlainQuantizer,
    PlainResidualBlock,
    PlainUpsample,
    PlainWarp,
)
from glare import GLARE
from glare.fusion import STRIP_ELEMENTS
from glare.layers import Attention, Upsample


class FusedAttention(Attention):
    """Attention by torch's kernel in bf16 as in float32."""

    @staticmethod
    def average(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v)


class WholeDecoder(GLARE):
    """GLARE with a VQ decoder that runs to its end, the image."""

    code_features = PlainGLARE.code_features


class AnyOrder(GLARE):
    """GLARE that leaves the input's memory format as it is."""

    restore_latent = PlainGLARE.restore_latent


def switched(*plain: type[nn.Module]) -> Callable[[GLARE], GLARE]:
    """Return a function that optimizes a model and then replaces modules of some kinds by plain ones."""

    def build(model: GLARE) -> GLARE:
        result = model.optimize()
        for module in result.modules():
            for cls in plain:
                if type(module) is cls.__base__:
                    module.__class__ = cls
        return result

    return build


def contiguous(model: GLARE) -> GLARE:
    return switched(AnyOrder)(model).to(memory_format=torch.contiguous_format)


class Bytes(NamedTuple):
    """Savings of one measure: bytes written and read, and bytes held at once."""

    moved: float
    held: float


def attention_maps(model: GLARE, height: int, width: int) -> Bytes:
    """Count scores, scaled scores and weights, which are written, and read again; two of them live at once."""
    stride = model.config.stride
    positions = height * width // stride**2
    maps = []
    for part in (model.condition, model.codebook.decoder, model.fusion.decoder):
        for module in part.modules():
            if isinstance(module, Attention):
                grid = module.grid
                seen = min(grid, height // stride) * min(grid, width // stride) if grid else positions
                maps.append(4 * positions * seen)
    return Bytes(7 * sum(maps), 2 * max(maps))


def enlarged_maps(model: GLARE, height: int, width: int) -> Bytes:
    """Count the maps of four times the size, each written, and read again."""
    maps = []
    grid = height * width // model.config.stem**2
    for decoder in (model.codebook.decoder, model.fusion.decoder):
        ups = [module for module in decoder.modules() if isinstance(module, Upsample)]
        maps += [4 * up.conv.in_channels * grid // share for up, share in zip(ups, (4, 1), strict=True)]
    return Bytes(2 * sum(maps), max(maps))


def distances(model: GLARE, height: int, width: int) -> Bytes:
    """Count the distances of all positions to all codes: products, sums of squares and their difference."""
    one = 4 * (height * width // model.config.stride**2) * model.config.codes
    return Bytes(6 * one, 3 * one)


def samples(model: GLARE, height: int, width: int) -> Bytes:
    """Count nine samples of each position, held at once; strips of them are written and read as well."""
    config = model.config
    most = max(
        (config.warp_channels or config.widths[level]) * height * width // (config.stem**2 * 4**level)
        for level in config.warp_levels
    )
    return Bytes(0, max(0, 4 * (9 * most - STRIP_ELEMENTS)))


def reordered(model: GLARE, height: int, width: int) -> Bytes:
    """Count the maps before and behind each convolution, written in another order, and read."""
    maps: list[int] = []
    handles = [
        module.register_forward_hook(
            lambda _, given, result: maps.append(4 * (given[0].numel() + result.numel()))
        )
        for module in model.modules()
        if isinstance(module, nn.Conv2d)
    ]
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        model(torch.rand(1, 3, height, width))
    for handle in handles:
        handle.remove()
    return Bytes(2 * sum(maps), max(maps))


def first_map(model: GLARE, height: int, width: int) -> Bytes:
    """Count one more map of the greatest size."""
    config = model.config
    return Bytes(0, 4 * max(config.channels // config.stem**2, config.detail_channels) * height * width)


def nothing(model: GLARE, height: int, width: int) -> Bytes:
    return Bytes(0, 0)


class Measure(NamedTuple):
    """One measure: how to build the optimized model without it, and its savings on an image of a height and a width."""

    without: Callable[[GLARE], GLARE]
    saved: Callable[[GLARE, int, int], Bytes]
    bf16: bool = False


#: All that `GLARE.optimize` and the layers do for speed and memory.
MEASURES = {
    "codes searched blockwise": Measure(switched(PlainQuantizer), distances),
    "attention in linear memory": Measure(switched(PlainAttention), attention_maps),
    "attention in blocks in bf16": Measure(switched(FusedAttention), nothing, bf16=True),
    "tail of the VQ decoder not computed": Measure(switched(WholeDecoder), nothing),
    "channels_last": Measure(contiguous, reordered),
    "upsampling as a transposed convolution": Measure(switched(PlainUpsample), enlarged_maps),
    "deformable convolution by sampling": Measure(switched(PlainWarp), samples),
    "activations in place": Measure(switched(PlainResidualBlock), first_map),
}
