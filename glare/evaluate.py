"""How close restored images come to their references, beside the simplest alternatives."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from glare.data.pairs import list_pairs, read_pair
from glare.metrics import gt_mean, psnr, ssim
from glare.model import GLARE


@torch.inference_mode()
def evaluate_pairs(model: GLARE, pairs: Path) -> dict[str, dict[str, float]]:
    """PSNR (dB) and SSIM of the untouched image, gamma 0.45 and ``model`` on the LOL-style pairs in a folder.

    Every method's result is clamped and rounded to 8 bits, as it would be stored. The figures with GT-mean come
    after the plain ones and never alone: see `glare.metrics.gt_mean`.
    """
    device = next(model.parameters()).device
    methods: dict[str, Callable[[Tensor], Tensor]] = {
        "untouched": lambda low: low,
        "gamma 0.45": lambda low: low**0.45,
        "GLARE": model,
    }
    rows: dict[str, list[list[float]]] = {name: [] for name in methods}
    for files in tqdm(list_pairs(pairs), desc="evaluate", unit="pair", disable=None):
        low, high = read_pair(files, device)
        for name, method in methods.items():
            image = (255.0 * method(low).clamp(0, 1)).round() / 255.0
            aligned = gt_mean(image, high)
            rows[name].append([f(i, high).item() for i in (image, aligned) for f in (psnr, ssim)])
    names = ("PSNR", "SSIM", "PSNR GT-mean", "SSIM GT-mean")
    return {
        method: dict(zip(names, torch.tensor(values).mean(0).tolist(), strict=True))
        for method, values in rows.items()
    }
