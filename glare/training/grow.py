"""More residual blocks for weights that are trained already, without unlearning anything."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn

from glare.config import GLAREConfig
from glare.layers import Attention, ResidualBlock
from glare.model import GLARE


@torch.no_grad()
def grow(model: GLARE, config: GLAREConfig) -> GLARE:
    """Return a model of ``config`` that computes what ``model`` does: additional blocks start as identities.

    Chen et al., "Net2Net: Accelerating learning via knowledge transfer", ICLR 2016.

    Args:
        model: trained weights.
        config: as that of ``model``, with as many or more ``encoder_blocks``, ``decoder_blocks`` and
            ``fusion_blocks``.

    Raises:
        ValueError: if ``config`` differs in anything else, or has fewer blocks.
    """
    names = ("encoder_blocks", "decoder_blocks", "fusion_blocks")
    blocks: dict[str, Any] = {name: getattr(config, name) for name in names}
    less = any(np.any(np.less(blocks[name], getattr(model.config, name))) for name in names)
    if less or replace(model.config, **blocks) != config:
        raise ValueError(
            f"Expected the weights' configuration with more blocks but got {config} for {model.config}."
        )
    grown = GLARE(config)
    new, _ = grown.load_state_dict(model.state_dict(), strict=False)
    for name, part in grown.named_modules():
        last = {ResidualBlock: "conv2", Attention: "proj"}.get(type(part))
        if last and f"{name}.{last}.weight" in new:
            for parameter in part.get_submodule(last).parameters():
                nn.init.zeros_(parameter)
    return grown.to(memory_format=torch.channels_last).eval()
