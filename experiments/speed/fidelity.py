"""The network in bf16 against the network in float32."""

from __future__ import annotations

import argparse
import math
import statistics
from typing import Any

import pandas as pd
import torch
from tqdm import tqdm

from detection import darken, sample_set
from detection.metrics.image_quality import as_tensor
from experiments.speed import plan
from experiments.speed.forms import build, in_bf16
from experiments.speed.plan import Rows
from glare.config import PRESETS
from glare.data.pairs import list_pairs, read
from glare.image import pad, to_float
from glare.metrics import psnr


@torch.inference_mode()
def fidelity(args: argparse.Namespace, bar: tqdm[Any]) -> pd.DataFrame:
    """Compare a call in bf16 with one in float32: the latent, the codes and, with trained weights, the image."""
    if args.val:
        lows = [to_float(read(low))[None] for low, _ in list_pairs(args.val)]
        source = "the low images of --val"
    else:
        night = darken(sample_set(), "dark")
        lows = [as_tensor(sample.load()).float() for sample in night.samples]
        source = "the built-in photographs, darkened"
    rows: Rows = []
    for weights in args.models:
        model = build(weights, "optimized").to(args.device)
        errors, equal, decibels = [], [], []
        trained = weights not in PRESETS
        chosen = lows if trained else [low[..., : plan.CROP, : plan.CROP] for low in lows[:6]]
        for number, low in enumerate(chosen):
            bar.set_postfix_str(f"{weights} bf16 against float32, {number + 1} of {len(chosen)}")
            low = low.to(args.device)
            padded = pad(low, model.config.stride)[0]
            latent = model.restore_latent(padded)[0]
            with in_bf16(args.device):
                other = model.restore_latent(padded)[0].float()
            errors.append(float((other - latent).norm() / latent.norm()))
            codes = [model.codebook.quantizer.nearest(z) for z in (latent, other)]
            equal.append(float((codes[0] == codes[1]).float().mean()))
            if trained:
                exact = model(low).clamp(0, 1)
                with in_bf16(args.device):
                    decibels.append(float(psnr(model(low).float().clamp(0, 1), exact)))
        bar.update()
        rows.append(
            {
                "model": weights if trained else f"{weights}, random weights",
                "images": len(chosen),
                "of": source if trained else f"{source}, {plan.CROP}x{plan.CROP}",
                "latent's relative error": statistics.mean(errors),
                "equal codes": statistics.mean(equal),
                "PSNR, lowest": min(decibels, default=math.nan),
                "PSNR, mean": statistics.mean(decibels) if decibels else math.nan,
            }
        )
    return pd.DataFrame(rows)
