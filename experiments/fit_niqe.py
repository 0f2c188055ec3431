"""Fit NIQE's model of natural photographs: mean and covariance of 36 features over the sharp blocks of many.

Prefer photographs that are sharp, well lit and hardly compressed, a hundred or more of them. The packaged model:

    python experiments/fit_niqe.py BSDS500/train --out glare/niqe.safetensors --note "fitted on the 200 training \
photographs of BSDS500 (non-commercial research and education); statistics only, no picture"
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from safetensors.torch import save
from tqdm import tqdm

from glare.data.pairs import list_images, read
from glare.image import to_float
from glare.niqe import FEATURES, block_features

#: A block counts if it is sharper than this share of its photograph's sharpest.
SHARP = 0.75


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photos", type=Path, help="folder of photographs")
    parser.add_argument("--out", type=Path, required=True, help="safetensors file to write")
    parser.add_argument(
        "--note", required=True, help="what the photographs are, and their terms: kept in the file"
    )
    args = parser.parse_args(arguments)
    try:
        fit(args.photos, args.out, args.note)
    except (ValueError, OSError) as error:
        sys.exit(f"fit_niqe: {error}")


def fit(photos: Path, out: Path, note: str) -> None:
    files = list_images(photos)
    kept = []
    for file in tqdm(files, unit="photograph", disable=None):
        features, sharpness = block_features(to_float(read(file))[None])
        sharp = sharpness > SHARP * sharpness.max()
        kept.append(features[sharp & features.isfinite().all(-1)])
    blocks = torch.cat(kept)
    if len(blocks) <= FEATURES:
        raise ValueError(f"Expected more than {FEATURES} sharp blocks in {photos} but got {len(blocks)}.")
    model = {"mean": blocks.mean(0), "covariance": blocks.T.cov()}
    out.write_bytes(save(model, {"note": note, "photographs": str(len(files)), "blocks": str(len(blocks))}))
    print(f"{out}: {len(blocks)} sharp blocks of {len(files)} photographs")


if __name__ == "__main__":
    main()
