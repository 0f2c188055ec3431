"""Choose the weights of a training run to keep, by PSNR and SSIM on its validation pairs and by a detector's mAP.

A checkpoint that wins PSNR and loses mAP is not the one to install, so the choice is made on both: of the weights
whose PSNR is within ``--tolerance`` of the run's best, those with the greatest mAP50 over all light levels.

    python experiments/choose_weights.py runs/joint --data coco_odd --detector yolo26n.pt --classes coco
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import pandas as pd
import torch

from detection import COCO_CLASSES, EXDARK_CLASSES, Enhancer, darken, detector, evaluate, read_dataset
from detection.detectors import BUILT_IN
from detection.enhancers import raw
from glare import GLAREEnhance
from glare.data.degrade import LEVELS

CLASSES = {"exdark": EXDARK_CLASSES, "coco": COCO_CLASSES}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="folder of a run of `glare train fusion` with --val")
    parser.add_argument("--data", type=Path, required=True, help="a labelled set in normal light, to darken")
    parser.add_argument("--classes", choices=CLASSES, default="exdark", help="(default: exdark)")
    parser.add_argument("--detector", default=BUILT_IN, help="(default: %(default)s)")
    parser.add_argument("--steps", help="weights to judge, by step, comma-separated (default: all)")
    parser.add_argument("--seeds", type=int, default=2, help="draws of the noise (default: %(default)s)")
    parser.add_argument("--tolerance", type=float, default=0.3, help="in dB (default: %(default)s)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args(arguments)
    try:
        run(args)
    except (ValueError, OSError, ModuleNotFoundError) as error:
        sys.exit(f"choose_weights: {error}")


def run(args: argparse.Namespace) -> None:
    log = [json.loads(line) for line in (args.run / "log.jsonl").read_text().splitlines()]
    validated = {line["step"]: line for line in log if "val/psnr" in line}
    steps = [int(step) for step in args.steps.split(",")] if args.steps else sorted(validated)
    if missing := sorted(set(steps) - set(validated)):
        raise ValueError(f"Expected argument `steps` out of {sorted(validated)} but got {missing} too.")
    enhancers: dict[str, Enhancer] = {
        str(step): GLAREEnhance(args.run / "validated" / f"{step:06d}", device=args.device) for step in steps
    }
    data = read_dataset(args.data, classes=CLASSES[args.classes])
    detect = detector(args.detector, device=args.device)
    tables = [
        evaluate(darken(data, *LEVELS, seed=seed), {"raw": raw, **enhancers}, detect, progress=True)
        for seed in range(args.seeds)
    ]
    # A row per set of weights, a column per light: the mean over the draws of the noise, less the untouched row.
    rows = pd.concat(tables)
    rows = rows[rows["light"].isin(LEVELS)]
    points = rows.groupby(["enhancer", "light"])["mAP50"].mean().unstack().mul(100)[list(LEVELS)]
    gains = points.sub(points.loc["raw"]).loc[[str(step) for step in steps]]
    gains["mean"] = gains.mean(axis=1)
    gains.insert(0, "PSNR", [validated[step]["val/psnr"] for step in steps])
    gains.insert(1, "SSIM", [validated[step]["val/ssim"] for step in steps])
    gains.index.name = "step"
    print(gains.round({"PSNR": 2, "SSIM": 3, "mean": 1, **dict.fromkeys(LEVELS, 1)}).to_string())
    untouched = ", ".join(f"{level} {points[level]['raw']:.1f}" for level in LEVELS)
    print(f"\nmAP50 in points above the untouched images ({untouched}), {args.seeds} draws of the noise.")
    near = gains[gains["PSNR"] >= gains["PSNR"].max() - args.tolerance]
    chosen = int(str(near["mean"].idxmax()))
    print(f"Keep {args.run / 'validated' / f'{chosen:06d}'}")


if __name__ == "__main__":
    main()
