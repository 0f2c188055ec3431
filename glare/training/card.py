"""The model card of a set of weights, from what was measured and what its file says of its training."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from glare import weights
from glare.model import GLARE


def write_card(
    folder: Path, name: str, terms: str, scores: Mapping[str, Mapping[str, float]], pairs: str
) -> Path:
    """Write ``folder/README.md`` beside the weights there.

    Args:
        folder: holds ``model.safetensors``.
        name: by which the weights are loaded.
        terms: the terms of the data that the weights were trained on, for their users.
        scores: a row per method, figures by name (`glare.evaluate.evaluate_pairs`).
        pairs: name of the pairs that were measured on.
    """
    model = GLARE.from_pretrained(folder)
    parameters = sum(p.numel() for p in model.parameters())
    figures = list(next(iter(scores.values())))
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
            ["", *figures], [[name, *(f"{row[f]:.3f}" for f in figures)] for name, row in scores.items()]
        ),
        "",
        "## Training",
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
        "validation figure; validation images are no test set.",
        "",
    ]
    card = folder / weights.CARD
    card.write_text("\n".join(lines), encoding="utf-8")
    return card


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows)]
