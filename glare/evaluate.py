"""Distance of restored images from their references, beside simple alternatives and the stages on their own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from glare.data.pairs import list_pairs, read_pair
from glare.flow import negative_log_likelihood
from glare.metrics import gt_mean, psnr, ssim
from glare.model import GLARE

#: Names of the figures; for GT-mean see `glare.metrics.gt_mean`.
FIGURES = ("PSNR", "SSIM", "PSNR GT-mean", "SSIM GT-mean")


@dataclass(frozen=True)
class Evaluation:
    """Result of `evaluate_pairs`.

    Attributes:
        methods: a row per method, its mean over all pairs by the names in `FIGURES`.
        images: the same figures of the model for each pair, by the name of the low-light file.
        stages: figures of the first two stages, by name: see `stages_on`.
    """

    methods: dict[str, dict[str, float]]
    images: dict[str, dict[str, float]]
    stages: dict[str, float]


@torch.inference_mode()
def evaluate_pairs(model: GLARE, pairs: Path) -> Evaluation:
    """Measure PSNR (dB) and SSIM of the untouched image, gamma 0.45 and ``model`` on the LOL-style pairs in a folder.

    Every method's result is clamped and rounded to 8 bits, as it would be stored. The figures with GT-mean come
    after the plain ones and never alone: see `glare.metrics.gt_mean`.

    Raises:
        ValueError: if the two images of a pair are the same.
    """
    device = next(model.parameters()).device
    methods: dict[str, Callable[[Tensor], Tensor]] = {
        "untouched": lambda low: low,
        "gamma 0.45": lambda low: low**0.45,
        "GLARE": model,
    }
    rows: dict[str, list[list[float]]] = {name: [] for name in methods}
    stages: list[dict[str, float]] = []
    used: set[int] = set()
    files = list_pairs(pairs)
    for low_file, high_file in tqdm(files, desc="evaluate", unit="pair", disable=None):
        low, high = read_pair((low_file, high_file), device)
        if torch.equal(low, high):  # which would make the mean PSNR infinite
            raise ValueError(f"Expected two images of a scene but {low_file} has the pixels of {high_file}.")
        for name, method in methods.items():
            image = (255.0 * method(low).clamp(0, 1)).round() / 255.0
            aligned = gt_mean(image, high)
            rows[name].append([f(i, high).item() for i in (image, aligned) for f in (psnr, ssim)])
        figures, codes = stages_on(model, low, high)
        stages.append(figures)
        used |= codes
    return Evaluation(
        {
            name: dict(zip(FIGURES, torch.tensor(values).mean(0).tolist(), strict=True))
            for name, values in rows.items()
        },
        {
            low_file.name: dict(zip(FIGURES, values, strict=True))
            for (low_file, _), values in zip(files, rows["GLARE"], strict=True)
        },
        {
            "codes used, of all": len(used) / model.config.codes,
            **{key: sum(row[key] for row in stages) / len(stages) for key in stages[0]},
        },
    )


@torch.inference_mode()
def stages_on(model: GLARE, low: Tensor, high: Tensor) -> tuple[dict[str, float], set[int]]:
    """Measure stages I and II on a pair (1,3,H,W), cut to sides that the network takes.

    Returns:
        the PSNR (dB) of the codebook's reconstruction of the reference; bits per latent pixel; how often the flow's
        latent lies nearest to the reference's code, the conditional encoder's mean alone, and how far (root mean
        square) both are from the reference's latent; and the codes that the reference uses.
    """
    low, high = model.cut(low, high)
    book = model.codebook
    latent = book.encode(high).float()
    codes = book.quantizer.nearest(latent)
    restored, condition = model.restore_latent(low)
    v, log_det = model.flow(latent, condition.feature)
    alone = condition.mean.float()
    return {
        "codebook PSNR": psnr(book.decode(latent)[0].float().clamp(0, 1), high).item(),
        "bits per latent pixel": negative_log_likelihood(v, alone, log_det).item(),
        "codes retrieved, flow": (book.quantizer.nearest(restored) == codes).float().mean().item(),
        "codes retrieved, encoder alone": (book.quantizer.nearest(alone) == codes).float().mean().item(),
        "latent error, flow": F.mse_loss(restored, latent).sqrt().item(),
        "latent error, encoder alone": F.mse_loss(alone, latent).sqrt().item(),
    }, set(codes.flatten().tolist())
