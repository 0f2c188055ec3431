"""The model card of a set of weights, from its figures and the history of its training."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from glare import weights
from glare.evaluate import FIGURES, Evaluation
from glare.model import GLARE

#: Images that a card names as failures.
WORST = 5


def write_card(folder: Path, name: str, terms: str, found: Evaluation, pairs: str) -> Path:
    """Write ``folder/README.md`` beside the weights there.

    Args:
        folder: holds ``model.safetensors``.
        name: by which the weights are loaded.
        terms: the terms of the data that the weights were trained on, for their users.
        found: what `glare.evaluate.evaluate_pairs` says of these weights.
        pairs: name of the pairs that were measured on.
    """
    model = GLARE.from_pretrained(folder)
    parameters = sum(p.numel() for p in model.parameters())
    hours = sum(entry["minutes"] for entry in weights.history(folder)) / 60.0
    worst = sorted(found.images, key=lambda image: found.images[image]["PSNR"])[:WORST]
    lines = [
        "---",
        "license: other",
        f"license_name: {json.dumps(terms)}",
        "pipeline_tag: image-to-image",
        "---",
        f"# {name}",
        "",
        f"Weights of GLARE for low-light enhancement, {parameters / 1e6:.2f} million parameters, fp16.",
        "",
        f"**Terms.** {terms}",
        "",
        "## Measured",
        "",
        f"On `{pairs}`, whole images, float32, these very weights: `glare evaluate {pairs} --weights {name}`.",
        "PSNR in dB and SSIM (Gaussian window, σ 1.5), RGB. The columns with GT-mean first scale the image to the",
        "brightness of the reference: they use the answer, and even plain gamma looks good in them.",
        "",
        *_table(
            ["", *FIGURES],
            [[name, *(f"{row[f]:.3f}" for f in FIGURES)] for name, row in found.methods.items()],
        ),
        "",
        "What stages I and II do there: the codebook's reconstruction of the reference (dB), the share of the codes",
        "that the references use, and how near to the reference's latent and its codes the low-light image leads,",
        "through the flow and by the conditional encoder's mean alone.",
        "",
        *_table(["", "mean"], [[name, f"{value:.3f}"] for name, value in found.stages.items()]),
        "",
        "## Known failures",
        "",
        f"The {len(worst)} images of `{pairs}` that come out worst:",
        "",
        *_table(
            ["", *FIGURES],
            [[image, *(f"{found.images[image][f]:.3f}" for f in FIGURES)] for image in worst],
        ),
        "",
        "Where the plain figure is low and the one with GT-mean is not, the brightness of the scene was missed, which",
        "one dark image does not tell; where both are low, colour or detail is wrong.",
        "",
        "## Training",
        "",
        f"{hours:.1f} hours in all.",
        "",
        *_table(
            ["stage", "steps", "crops", "minutes", "on", "data", "command"],
            [
                [
                    entry["stage"],
                    str(entry["steps"]),
                    str(entry["crops"]),
                    f"{entry['minutes']:.0f}",
                    entry["hardware"],
                    ", ".join(entry["data"]),
                    f"`{entry['command']}`",
                ]
                for entry in weights.history(folder)
            ],
        ),
        "",
        "Half precision in the file, float32 when loaded. The checkpoint of each stage is the one with the best",
        "validation figure, or the one that the next command names; validation images are no test set.",
        "",
    ]
    card = folder / weights.CARD
    card.write_text("\n".join(lines), encoding="utf-8")
    return card


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows)]
