"""Fine-tune a YOLO: on what enhancers make of dark images, or into the built-in detector.

With ``--enhancers``, the standard protocol: for every enhancer (``raw`` is none at all) a YOLO is trained on the
enhanced training images, then measured on the held-out ones behind the same enhancer; one table. With
``--seeds N`` every training is repeated, and the table says the mean and the spread.

    python experiments/finetune_detector.py --data exdark --enhancers raw,clahe,glare --seeds 3

Without, yolo26n with ExDark's twelve classes, a little further trained on clean photographs: no image is darkened
or enhanced, so the detector favours no enhancer. Images with an even number in their name are trained on, those
with an odd number are measured on (COCO mAP by pycocotools, against the same rows of yolo26n as it came). The
result goes to ``detection/detectors/weights/``: fp16 safetensors, a YAML with the architecture, and a card.

    python experiments/finetune_detector.py --weights yolo26n.pt --data coco_dark_source
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import yaml
from safetensors.torch import save as to_bytes

from detection import (
    EXDARK_CLASSES,
    Dataset,
    Enhancer,
    Sample,
    darken,
    evaluate,
    read_dataset,
    read_yolo,
    write_yolo,
)
from detection.data.core import Pixels
from detection.data.exdark import LIST
from detection.data.yolo import yolo_splits
from detection.detectors.ultralytics import WEIGHTS, YOLO, YOLODetector, built_in, keep_exdark_classes, train
from detection.enhancers import Folder, enhanced_by, enhancer, raw
from detection.report.tables import rounded, write_csv, write_markdown
from glare.data.degrade import LEVELS

NAME = "yolo26n-exdark"
KEYS = ("detector", "light", "place", "enhancer")
MEANS = ("mAP50", "mAP50-95", "PSNR", "SSIM", "LPIPS", "ms", "detector_ms")
SPREAD = ("mAP50", "mAP50-95")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--data", type=Path, required=True, help="a folder of ExDark or YOLO's layout, or a COCO JSON"
    )
    parser.add_argument(
        "--weights", help="a YOLO's .pt, a pickle, so use one you trust (default: the built-in)"
    )
    parser.add_argument("--epochs", type=int, help="(default: 50 with --enhancers, otherwise 4)")
    parser.add_argument(
        "--lr", type=float, help="AdamW's (default: ultralytics' choice; 2e-5 for the built-in)"
    )
    parser.add_argument("--seed", type=int, default=0, help="the first one (default: 0)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--out", type=Path, help="(default: runs/finetune_detector; detection/detectors/weights)"
    )
    protocol = parser.add_argument_group("the protocol")
    protocol.add_argument("--enhancers", help="by name, or module:callable, e.g. raw,clahe,glare")
    protocol.add_argument(
        "--test", type=Path, help="another set to measure on (default: every fifth image of --data)"
    )
    protocol.add_argument(
        "--split",
        nargs=2,
        metavar=("TRAIN", "TEST"),
        help="of ExDark: train, val, test or a file of names (default: train test)",
    )
    protocol.add_argument(
        "--levels", default="none", help="how dark to make the images (default: as they are)"
    )
    protocol.add_argument("--seeds", type=int, default=1, help="trainings per enhancer (default: 1)")
    protocol.add_argument("--imgsz", type=int, default=640, help="pixels the detector sees (default: 640)")
    protocol.add_argument("--batch", type=int, default=16, help="(default: 16)")
    args = parser.parse_args(arguments)
    if args.enhancers is None and args.weights is None:
        parser.error("--enhancers for the protocol, or --weights to make the built-in detector from")
    try:
        compare(args) if args.enhancers else make_built_in(args)
    except (ValueError, OSError, ModuleNotFoundError) as error:
        sys.exit(f"finetune_detector: {error}")


def compare(args: argparse.Namespace) -> None:
    """The protocol: as many trainings and tests as there are enhancers and seeds."""
    if args.seeds < 1:
        raise ValueError(f"Expected --seeds to be at least 1 but got {args.seeds}.")
    training, testing = split(args)
    enhancers = {name: enhancer(name, args.device) for name in args.enhancers.split(",")}
    detector = YOLODetector.from_name(args.weights) if args.weights else built_in()
    if tuple(detector.names) != EXDARK_CLASSES:
        keep_exdark_classes(detector.network)
    args.epochs, out = args.epochs or 50, args.out or Path("runs/finetune_detector")
    out.mkdir(parents=True, exist_ok=True)

    tables: list[pd.DataFrame] = []
    faults: list[str] = []
    for name, enhance in enhancers.items():
        with tempfile.TemporaryDirectory() as work:
            written = write_yolo(enhanced(training, name, enhance), Path(work) / "data")
            faults += written.faults
            for seed in range(args.seed, args.seed + args.seeds):
                network = train(
                    detector.network,
                    data=str(Path(work) / "data" / "data.yaml"),
                    epochs=args.epochs,
                    imgsz=args.imgsz,
                    batch=args.batch,
                    **({"lr0": args.lr, "optimizer": "AdamW"} if args.lr else {}),
                    augmentations=[],  # the same whether albumentations is there or not
                    seed=seed,
                    device=args.device,
                    # Nothing is chosen by validation: what is measured is the end of the training.
                    val=False,
                    plots=False,
                    project=str(out.resolve()),
                    name=re.sub(r"[^\w.-]", "_", f"{name}-{seed}"),
                    exist_ok=True,
                )
                tuned = YOLODetector.from_network(network, args.device, args.imgsz)
                table = evaluate(testing, tuned, {name: enhance}, progress=True)
                faults += table.attrs["faults"]
                table.insert(int(table.columns.get_indexer(["enhancer"])[0]) + 1, "seed", seed)
                tables.append(table)
                # Written anew with every training, so that what is done is there whenever the run ends.
                write_csv(pd.concat(tables, ignore_index=True), out / "results.csv")
    table = summary(pd.concat(tables, ignore_index=True))
    notes = [
        f"Trained on {size(training)}, measured on {size(testing)}: {args.epochs} epochs from "
        f"{args.weights or NAME}, at {args.imgsz} pixels; the running average of the weights after the last epoch.",
        f"Seeds {args.seed} to {args.seed + args.seeds - 1}; std is the sample standard deviation over them."
        if args.seeds > 1
        else f"One training per row, seed {args.seed}: nothing is known of the spread (--seeds).",
        *(f"Fault: {fault}" for fault in dict.fromkeys(faults)),
    ]
    write_markdown(table, notes, out / "results.md")
    print(rounded(table).to_string(index=False, na_rep=""))
    print("\n" + "\n".join(notes) + f"\nwritten to {out}")


def split(args: argparse.Namespace) -> tuple[Dataset, Dataset]:
    """What to train and what to measure on, darkened if asked for."""
    official = ("train", "test") if (args.data / LIST).exists() else (None, None)
    if args.data.is_dir() or args.data.suffix in (".yaml", ".yml"):
        places = yolo_splits(args.data)
        if places.get("train") and places.get("val") and places["train"] != places["val"]:
            official = ("train", "val")
    train_split, test_split = args.split or official
    training = read_dataset(args.data, split=train_split)
    if args.test:
        testing = read_dataset(args.test)
    elif test_split:
        testing = read_dataset(args.data, split=test_split)
    else:
        samples = sorted(training.samples, key=lambda sample: sample.name)
        testing = replace(training, samples=tuple(samples[4::5]), faults=(), left_out=0)
        training = replace(training, samples=tuple(s for i, s in enumerate(samples) if i % 5 != 4))
    if not training.samples or not testing.samples:
        raise ValueError(
            f"Expected images to train and to measure on but got {len(training)} and {len(testing)}."
        )
    if args.levels != "none":
        training, testing = (darken(part, *args.levels.split(",")) for part in (training, testing))
    return training, testing


def enhanced(data: Dataset, name: str, enhance: Enhancer | Folder) -> Dataset:
    """The set as an enhancer shows it to a detector that is to be trained."""

    def load(sample: Sample) -> Pixels:
        return enhanced_by(name, enhance, sample.load(), sample)

    # A name may come again in another light.
    samples = (replace(s, name=f"{s.light}/{s.name}") for s in data.samples)
    if enhance is not raw:
        samples = (replace(s, load=partial(load, s), reference=None, path=None) for s in samples)
    return replace(data, samples=tuple(samples))


def size(data: Dataset) -> str:
    return f"{len(data)} images with {sum(len(sample.boxes) for sample in data.samples)} boxes"


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """The mean over the seeds, with a column for the spread of each mAP where there are several."""
    keys = [column for column in KEYS if column in table]
    rows = table.groupby(keys, sort=False, dropna=False)
    columns: dict[str, pd.Series] = {}
    for column in (column for column in MEANS if column in table):
        columns[column] = rows[column].mean()
        if column in SPREAD and table["seed"].nunique() > 1:
            columns[f"{column} std"] = rows[column].std().round(4)
    for column in ("images", "boxes"):  # the same for every seed
        columns[column] = rows[column].first()
    return pd.DataFrame(columns).reset_index()


def make_built_in(args: argparse.Namespace) -> None:
    """The detector in the package."""
    args.epochs, args.lr, args.out = args.epochs or 4, args.lr or 2e-5, args.out or WEIGHTS
    data = read_yolo(args.data)
    training, measuring = half(data, even=True), half(data, even=False)
    start = YOLO(args.weights, task="detect")
    keep_exdark_classes(start.model)
    with tempfile.TemporaryDirectory() as work:
        # Its validation images are the training images: ultralytics wants some, and the measuring half stays out.
        write_yolo(training, Path(work) / "data")
        trained = train(
            start.model,
            data=str(Path(work) / "data" / "data.yaml"),
            epochs=args.epochs,
            lr0=args.lr,
            optimizer="AdamW",
            warmup_epochs=0,
            batch=16,
            nbs=16,  # a step for every batch
            freeze=10,  # the backbone has seen all of COCO; this half has some seventy photographs
            mosaic=0.0,
            # Ultralytics' own draws of brightness, blur and CLAHE stay out: no enhancer is to be favoured.
            hsv_h=0.0,
            hsv_s=0.0,
            hsv_v=0.0,
            augmentations=[],
            seed=args.seed,
            workers=0,
            device=args.device,
            val=False,
            plots=False,
            project=work,
            name="train",
        )
    args.out.mkdir(parents=True, exist_ok=True)
    save(trained, args.out)

    before = measure(YOLODetector(start, args.device), measuring)
    after = measure(built_in(args.device, args.out), measuring)
    card(args, training, measuring, before, after)
    print((args.out / "README.md").read_text(encoding="utf-8"))


def half(data: Dataset, *, even: bool) -> Dataset:
    chosen = (s for s in data.samples if (int(Path(s.name).stem) % 2 == 0) == even)
    return replace(data, samples=tuple(chosen))


def save(network: Any, out: Path) -> None:
    tensors = {
        name: (tensor.half() if tensor.is_floating_point() else tensor).contiguous()
        for name, tensor in network.state_dict().items()
    }
    if not all(torch.isfinite(tensor).all() for tensor in tensors.values()):
        raise ValueError("Expected finite weights but got some that fp16 cannot hold.")
    (out / f"{NAME}.safetensors").write_bytes(to_bytes(tensors))
    keys = ("scale", "end2end", "reg_max", "scales", "backbone", "head")
    architecture = {key: network.yaml[key] for key in keys} | {"nc": 80, "names": list(EXDARK_CLASSES)}
    text = yaml.safe_dump(architecture, sort_keys=False, default_flow_style=None)
    (out / f"{NAME}.yaml").write_text(
        "# The architecture of yolo26n, AGPL-3.0. Built with COCO's 80 classes, of which `names` are kept.\n"
        + text,
        encoding="utf-8",
    )


def measure(detector: YOLODetector, data: Dataset) -> dict[str, tuple[float, float]]:
    """mAP50 and mAP50-95 of the untouched images, clean and at each light level."""
    table = evaluate(data, detector, {"raw": raw}, progress=True)
    dark = evaluate(darken(data, *LEVELS), detector, {"raw": raw}, progress=True)
    scores = {"clean": (table["mAP50"][0], table["mAP50-95"][0])}
    return scores | {
        r["light"]: (r["mAP50"], r["mAP50-95"]) for r in dark.to_dict("records") if r["light"] in LEVELS
    }


def card(
    args: argparse.Namespace,
    training: Dataset,
    measuring: Dataset,
    before: dict[str, tuple[float, float]],
    after: dict[str, tuple[float, float]],
) -> None:
    sizes = [
        f"{len(part)} clean photographs with {sum(len(s.boxes) for s in part.samples)} boxes"
        for part in (training, measuring)
    ]
    rows = "".join(
        f"| {light} | {before[light][0]:.3f} | {after[light][0]:.3f} | "
        f"{before[light][1]:.3f} | {after[light][1]:.3f} |\n"
        for light in after
    )
    command = (
        f"--weights {Path(args.weights).name} --data {Path(args.data).name} "
        f"--epochs {args.epochs} --lr {args.lr} --seed {args.seed}"
    )
    text = f"""# yolo26n-exdark

The built-in detector: [yolo26n](https://docs.ultralytics.com/models/yolo26) by Ultralytics with the twelve
classes of ExDark ({", ".join(EXDARK_CLASSES)}),
fp16, read without unpickling.

**Licence: AGPL-3.0** (`LICENSE` in this folder), as yolo26n's weights are. The rest of the project is
Apache-2.0.

**Training.** Started from `yolo26n.pt`: of its eighty COCO classes the rows of these twelve are kept in the
last 1×1 convolution of both heads. Then ultralytics' own trainer (AdamW, {args.epochs} epochs, learning rate
{args.lr}, backbone frozen) on {sizes[0]}, the even numbers of
`{Path(args.data).name}` (photographs of COCO train2017 in YOLO's layout). No image was
darkened or enhanced, so it favours no enhancer.

    python experiments/finetune_detector.py {command}

**Measured** on {sizes[1]}, the odd numbers: COCO mAP by pycocotools over
the twelve classes, at 640 pixels, no enhancer; the darkened rows are `detection.darken` with seed 0. Both
columns saw the same pixels. yolo26n itself was trained on COCO train2017, so the level says little; the
difference is what counts, and with so few photographs one below about six points is not resolved.

| light | mAP50 yolo26n | mAP50 this | mAP50-95 yolo26n | mAP50-95 this |
| --- | --- | --- | --- | --- |
{rows}"""
    (args.out / "README.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
