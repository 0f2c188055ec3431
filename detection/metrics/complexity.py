"""Complexity of an enhancer: parameters, and operations on a square of fixed size."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode, conv_flop_count, sdpa_flop_count

from detection.enhancers import Enhancer, Folder, Named
from glare import GLAREEnhance

SIDE = 256
"""Operations are counted on a square of so many pixels, as in the field's tables."""


def complexity(enhance: Enhancer | Folder) -> tuple[float, float]:
    """Return how many millions of parameters an enhancer has, and how many 10^9 operations it spends on 256×256.

    A multiplication and an addition are two operations. The count covers products of matrices, convolutions (deformable
    ones too) and attention. Both numbers are NaN for an enhancer that is no torch module.
    """
    network = enhance.enhance if isinstance(enhance, Named) else enhance
    if not isinstance(network, nn.Module):
        return float("nan"), float("nan")
    parts: nn.Module = network
    if isinstance(network, GLAREEnhance):
        parts = network.model  # no child of the transform where it is frozen
    parameters = sum(parameter.numel() for parameter in parts.parameters()) / 1e6
    grey = np.full((SIDE, SIDE, 3), 64, dtype=np.uint8)
    try:
        with torch.no_grad(), flop_counter() as counter:
            network(grey)
    except Exception:  # somebody else's network may not take this size
        return parameters, float("nan")
    return parameters, counter.get_total_flops() / 1e9


def flop_counter() -> FlopCounterMode:
    """Return torch's counter of operations, extended by deformable convolutions and attention on a CPU."""

    def attention(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
        return int(sdpa_flop_count(query, key, value))  # type: ignore[no-untyped-call]

    def deformable(image: Any, weight: Any, *_: Any, out_shape: Any, **__: Any) -> int:
        return int(conv_flop_count(image, weight, out_shape))

    also: dict[Any, Any] = {
        torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: attention,
        torch.ops.torchvision.deform_conv2d: deformable,
    }
    return FlopCounterMode(display=False, custom_mapping=also)
