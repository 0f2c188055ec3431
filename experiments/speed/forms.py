"""The network in its straightforward and in its fast form, and its input."""

from __future__ import annotations

from functools import cache, lru_cache

import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode

from detection.metrics.complexity import flop_counter
from experiments.speed.measures import MEASURES
from experiments.speed.plan import Size
from experiments.straightforward import straightforward
from glare import GLARE
from glare.config import PRESETS


@lru_cache
def load(weights: str) -> GLARE:
    """Load a preset with random weights, or weights by name."""
    if weights in PRESETS:
        torch.manual_seed(0)
        return GLARE(weights).eval()
    return GLARE.from_pretrained(weights).eval()


@lru_cache(maxsize=1)
def build(weights: str, form: str) -> GLARE:
    """Build a model in a form: ``straightforward``, ``optimized``, or optimized but for one of `MEASURES`."""
    if form == "straightforward":
        return straightforward(load(weights))
    return MEASURES[form].without(load(weights)) if form in MEASURES else load(weights).optimize()


def dark(batch: int, height: int, width: int, device: str = "cpu") -> Tensor:
    """Return an image of noise, (B,3,H,W) in [0,0.2]."""
    generator = torch.Generator().manual_seed(0)
    return (0.2 * torch.rand(batch, 3, height, width, generator=generator)).to(device)


def in_bf16(device: str, wanted: bool = True) -> torch.autocast:
    return torch.autocast(torch.device(device).type, dtype=torch.bfloat16, enabled=wanted)


def synchronize(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


@cache
def gflop(weights: str, form: str, size: Size) -> float:
    """Count the operations of a call for one image, in 10^9, without computing it."""
    model = build(weights, form)
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad(), flop_counter() as counter:
        model(torch.rand(1, 3, *size))
    return float(counter.get_total_flops() / 1e9)
