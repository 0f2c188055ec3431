"""Which enhancer helps a detector in the dark: mAP, PSNR, SSIM and time for each light level and enhancer.

Without arguments: six photographs that ship with the dependencies, darkened at three levels, the built-in
twelve-class detector. Writes ``results.csv``, ``results.md`` and one side-by-side picture per photograph.

    python experiments/detect_exdark.py
    python experiments/detect_exdark.py --data my_set/annotations.json --enhancers raw,glare,my_module:enhance
    python experiments/detect_exdark.py --data exdark --split test
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from detection import (
    COCO_CLASSES,
    EXDARK_CLASSES,
    Dataset,
    Detections,
    Sample,
    darken,
    evaluate,
    read_dataset,
    sample_set,
)
from detection.dataset import Pixels
from detection.detectors import BUILT_IN, detector
from detection.enhancers import NAMES, enhancer, raw
from detection.report import Panel, rounded, save_picture, side_by_side, write_csv, write_markdown
from glare.data.degrade import LEVELS

CLASSES = {"exdark": EXDARK_CLASSES, "coco": COCO_CLASSES}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--data",
        type=Path,
        help="a folder of ExDark, DARK FACE or YOLO's layout, or a COCO JSON (default: the built-in set)",
    )
    parser.add_argument("--split", help="of ExDark: train, val, test or a file of names (default: test)")
    parser.add_argument("--images", type=Path, help="folder with the images of the COCO JSON")
    parser.add_argument(
        "--classes", choices=CLASSES, default="exdark", help="classes to find (default: exdark)"
    )
    parser.add_argument(
        "--detector", default=BUILT_IN, help="a name of torchvision's or ultralytics' (default: %(default)s)"
    )
    parser.add_argument(
        "--enhancers", default=",".join(NAMES), help="by name, or module:callable (default: %(default)s)"
    )
    parser.add_argument(
        "--levels",
        help="how dark to make the images, or `none` if they are dark already (default: "
        f"{','.join(LEVELS)}; `none` for a set that says what light it was taken in, as ExDark does)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the simulated noise (default: 0)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, default=Path("runs/detect_exdark"))
    args = parser.parse_args(arguments)
    try:
        run(args)
    except (ValueError, OSError, ModuleNotFoundError) as error:
        sys.exit(f"detect_exdark: {error}")


def run(args: argparse.Namespace) -> None:
    if args.data is None:
        clean = sample_set()
    else:
        clean = read_dataset(args.data, images=args.images, split=args.split, classes=CLASSES[args.classes])
    dark_already = any(sample.light != Sample.light for sample in clean.samples)
    levels = args.levels.split(",") if args.levels else ["none"] if dark_already else list(LEVELS)
    data = clean if levels == ["none"] else darken(clean, *levels, seed=args.seed)
    enhancers = {name: enhancer(name, args.device) for name in args.enhancers.split(",")}
    args.out.mkdir(parents=True, exist_ok=True)

    detect = detector(args.detector, device=args.device)
    table = evaluate(data, detect, enhancers, progress=True, on_image=Pictures(args.out, data))
    notes = notes_on(table, clean, args)
    if data is not clean:
        day = evaluate(clean, detect, {"raw": raw}).iloc[0]
        notes.insert(
            1, f"By day, before darkening: mAP50 {day['mAP50']:.4f}, mAP50-95 {day['mAP50-95']:.4f}."
        )
    write_csv(table, args.out / "results.csv")
    write_markdown(table, notes, args.out / "results.md")
    print(rounded(table).to_string(index=False, na_rep=""))
    print("\n" + "\n".join(notes) + f"\nwritten to {args.out}")


class Pictures:
    """One side-by-side picture per photograph: a row per light, the labelled image, then every enhancer."""

    def __init__(self, folder: Path, data: Dataset) -> None:
        self.folder = folder
        self.classes = data.classes
        self.name = ""
        self.rows: list[list[Panel]] = []

    def __call__(self, sample: Sample, seen: Mapping[str, tuple[Pixels, Detections]]) -> None:
        if sample.name != self.name:
            self.name, self.rows = sample.name, []
        labelled = Detections(sample.boxes, np.ones(len(sample.boxes)), sample.labels)
        image = sample.reference() if sample.reference else sample.load()
        self.rows.append(
            [Panel("labelled", image, labelled, scores=False)]
            + [Panel(f"{name}, {sample.light}", image, found) for name, (image, found) in seen.items()]
        )
        # Written anew with every light, so that it is whole whenever the run ends.
        file = Path(sample.name.replace("/", "_")).with_suffix(".jpg")
        save_picture(side_by_side(self.rows, self.classes), self.folder / file)


def notes_on(table: pd.DataFrame, clean: Dataset, args: argparse.Namespace) -> list[str]:
    """What a reader has to know to judge the table."""
    sizes = table[["images", "boxes"]].drop_duplicates()
    rests = " or ".join(f"{images} images with {boxes} boxes" for images, boxes in sizes.to_numpy())
    faults = table.attrs["faults"]
    notes = [
        f"Each row rests on {rests}{f': {clean.note}' if clean.note else ''}.",
        f"Detector {args.detector}, seed {args.seed}, {args.device}. All rows of a light saw the same noise.",
        "mAP by pycocotools over the classes that occur. PSNR (dB) and SSIM (Gaussian window, σ = 1.5) are "
        "against the image before darkening, without GT-mean. ms: mean per image, the enhancer alone.",
    ]
    return notes + [f"Fault: {fault}" for fault in faults]


if __name__ == "__main__":
    main()
