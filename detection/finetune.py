"""Fine-tune a YOLO: on enhanced images, or into the built-in detector.

`compare` is the standard protocol: for every enhancer a YOLO is trained on the enhanced training images, then measured
on the held-out ones behind the same enhancer. `make_built_in` makes the detector in the package.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import yaml  # type: ignore[import-untyped]
from safetensors.torch import save as to_bytes

from detection.data.auto import read_dataset
from detection.data.classes import EXDARK_CLASSES
from detection.data.core import Dataset, Pixels, Sample
from detection.data.darken import darken
from detection.data.exdark import LIST
from detection.data.yolo import read_yolo, write_yolo, yolo_splits
from detection.detectors import BUILT_IN
from detection.detectors.ultralytics import YOLO, YOLODetector, built_in, keep_exdark_classes, train
from detection.enhancers import Enhancer, Folder, enhanced_by, raw
from detection.report.tables import rounded, write_csv, write_markdown
from detection.runner import evaluate
from glare.data.degrade import LEVELS

_KEYS = ("detector", "light", "place", "enhancer")
_MEANS = ("mAP50", "mAP50-95", "PSNR", "SSIM", "LPIPS", "ms", "detector_ms")
_SPREAD = ("mAP50", "mAP50-95")


@dataclass(frozen=True)
class Protocol:
    """Settings of the training in `compare`.

    Attributes:
        epochs: of each training.
        lr: AdamW's learning rate; None leaves the optimizer and its rate to ultralytics.
        image_size: pixels the detector sees.
        batch: images of a step.
        seeds: one training for each.
        device: where.
    """

    epochs: int = 50
    lr: float | None = None
    image_size: int = 640
    batch: int = 16
    seeds: range = range(1)
    device: str = "cpu"


def compare(
    training: Dataset,
    testing: Dataset,
    enhancers: Mapping[str, Enhancer | Folder],
    weights: str | None,
    protocol: Protocol,
    out: Path,
) -> None:
    """Train and measure once for each enhancer and seed, and write ``results.csv`` and ``results.md``.

    Args:
        training: what is trained on, enhanced once, at its own size.
        testing: what is measured on.
        enhancers: by name.
        weights: any YOLO checkpoint with COCO's classes or ExDark's; None for the built-in detector.
        protocol: how.
        out: a folder.

    Raises:
        ValueError: if there is no seed, or the weights are of other classes.
    """
    if not protocol.seeds:
        raise ValueError(f"Expected --seeds to be at least 1 but got {len(protocol.seeds)}.")
    detector = YOLODetector.from_name(weights) if weights else built_in()
    if tuple(detector.names) != EXDARK_CLASSES:
        keep_exdark_classes(detector.network)
    out.mkdir(parents=True, exist_ok=True)

    tables: list[pd.DataFrame] = []
    faults: list[str] = []
    for name, enhance in enhancers.items():
        with tempfile.TemporaryDirectory() as work:
            written = write_yolo(enhanced_set(training, name, enhance), Path(work) / "data")
            faults += written.faults
            for seed in protocol.seeds:
                network = train(
                    detector.network,
                    data=str(Path(work) / "data" / "data.yaml"),
                    epochs=protocol.epochs,
                    imgsz=protocol.image_size,
                    batch=protocol.batch,
                    **({"lr0": protocol.lr, "optimizer": "AdamW"} if protocol.lr else {}),
                    augmentations=[],  # the same with and without albumentations
                    seed=seed,
                    device=protocol.device,
                    # Validation chooses nothing: the end of the training is measured.
                    val=False,
                    plots=False,
                    project=str(out.resolve()),
                    name=re.sub(r"[^\w.-]", "_", f"{name}-{seed}"),
                    exist_ok=True,
                )
                tuned = YOLODetector.from_network(network, protocol.device, protocol.image_size)
                table = evaluate(testing, {name: enhance}, tuned, progress=True)
                faults += table.attrs["faults"]
                table.insert(int(table.columns.get_indexer(pd.Index(["enhancer"]))[0]) + 1, "seed", seed)
                tables.append(table)
                # Written anew after every training, so that a stopped run keeps its results.
                write_csv(pd.concat(tables, ignore_index=True), out / "results.csv")
    table = mean_over_seeds(pd.concat(tables, ignore_index=True))
    notes = [
        f"Trained on {_size(training)}, measured on {_size(testing)}: {protocol.epochs} epochs from "
        f"{weights or BUILT_IN}, at {protocol.image_size} pixels; the running average of the weights after the last "
        "epoch.",
        f"Seeds {protocol.seeds[0]} to {protocol.seeds[-1]}; std is the sample standard deviation over them."
        if len(protocol.seeds) > 1
        else f"One training per row, seed {protocol.seeds[0]}: nothing is known of the spread (--seeds).",
        *(f"Fault: {fault}" for fault in dict.fromkeys(faults)),
    ]
    write_markdown(table, notes, out / "results.md")
    print(rounded(table).to_string(index=False, na_rep=""))
    print("\n" + "\n".join(notes) + f"\nwritten to {out}")


def training_and_testing(
    data: Path,
    *,
    test: Path | None = None,
    split: tuple[str, str] | None = None,
    levels: tuple[str, ...] = (),
) -> tuple[Dataset, Dataset]:
    """Return the images to train on and those to measure on.

    Args:
        data: any set that `read_dataset` reads.
        test: another one to measure on.
        split: two of its splits; by default those of ExDark, or of a ``data.yaml`` that has two. Of any other set
            every fifth image in the order of the names is held out.
        levels: how dark to make both; none leaves them as they are.

    Raises:
        ValueError: if one of the two has no image, or an image is in both.
    """
    official: tuple[str, str] | tuple[None, None] = (None, None)
    if (data / LIST).exists():
        official = ("train", "test")
    elif (data.is_dir() or data.suffix in (".yaml", ".yml", ".data")) and {"train", "val"} <= {
        *yolo_splits(data)
    }:
        official = ("train", "val")
    train_split, test_split = split or official
    training = read_dataset(data, split=train_split)
    if test:
        testing = read_dataset(test)
    elif test_split:
        testing = read_dataset(data, split=test_split)
    else:
        samples = sorted(training.samples, key=lambda sample: sample.name)
        testing = training.replace(samples=tuple(samples[4::5]), faults=(), left_out=0)
        training = training.replace(samples=tuple(s for i, s in enumerate(samples) if i % 5 != 4))
    if not training.samples or not testing.samples:
        raise ValueError(
            f"Expected images to train and to measure on but got {len(training)} and {len(testing)}."
        )
    trained = {sample.path.resolve() for sample in training.samples if sample.path}
    if both := [
        sample.name for sample in testing.samples if sample.path and sample.path.resolve() in trained
    ]:
        raise ValueError(
            f"Expected other images to measure on than to train on but {len(both)} are in both, such as {both[0]}."
        )
    if levels:
        training, testing = (darken(part, *levels) for part in (training, testing))
    return training, testing


def enhanced_set(dataset: Dataset, name: str, enhance: Enhancer | Folder) -> Dataset:
    """Return a set as an enhancer of a name shows it to a detector that is to be trained."""

    def load(sample: Sample) -> Pixels:
        return enhanced_by(name, enhance, sample.load(), sample)

    # A name may come again in another light.
    samples = (replace(s, name=f"{s.light}/{s.name}") for s in dataset.samples)
    if enhance is not raw:
        samples = (replace(s, load=partial(load, s), reference=None, path=None) for s in samples)
    return dataset.replace(samples=tuple(samples))


def mean_over_seeds(table: pd.DataFrame) -> pd.DataFrame:
    """Return the mean over the seeds, with a column for the spread of each mAP where there are several."""
    keys = [column for column in _KEYS if column in table]
    rows = table.groupby(keys, sort=False, dropna=False)
    columns: dict[str, pd.Series[Any]] = {}
    for column in (column for column in _MEANS if column in table):
        columns[column] = rows[column].mean()
        if column in _SPREAD and table["seed"].nunique() > 1:
            columns[f"{column} std"] = rows[column].std().round(4)
    for column in ("images", "boxes"):  # the same for every seed
        columns[column] = rows[column].first()
    return pd.DataFrame(columns).reset_index()


def _size(data: Dataset) -> str:
    return f"{len(data)} images with {sum(len(sample.boxes) for sample in data.samples)} boxes"


def make_built_in(
    data: Path, weights: str, epochs: int, lr: float, seed: int, device: str, out: Path
) -> None:
    """Make the detector in the package, and its card.

    It keeps the rows of ExDark's twelve classes in both heads of a YOLO26n, and is trained a little further on clean
    photographs: no image is darkened or enhanced, so the detector favours no enhancer.

    Args:
        data: a set in YOLO's layout; images with an even number in their name are trained on, the others measured on.
        weights: a checkpoint of YOLO26n.
        epochs: of the training.
        lr: AdamW's learning rate.
        seed: of the training.
        device: where.
        out: a folder for fp16 safetensors, a YAML with the architecture, and the card.
    """
    whole = read_yolo(data)
    training, measuring = half(whole, even=True), half(whole, even=False)
    start = YOLO(weights, task="detect")
    keep_exdark_classes(start.model)
    with tempfile.TemporaryDirectory() as work:
        # The training images serve for validation too: ultralytics needs some, and the measuring half stays out.
        write_yolo(training, Path(work) / "data")
        trained = train(
            start.model,
            data=str(Path(work) / "data" / "data.yaml"),
            epochs=epochs,
            lr0=lr,
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
            seed=seed,
            workers=0,
            device=device,
            val=False,
            plots=False,
            project=work,
            name="train",
        )
    out.mkdir(parents=True, exist_ok=True)
    _save(trained, out)

    before = _measure(YOLODetector(start, device), measuring)
    after = _measure(built_in(device, out), measuring)
    command = f"--weights {Path(weights).name} --data {data.name} --epochs {epochs} --lr {lr} --seed {seed}"
    sizes = [
        f"{len(part)} clean photographs with {sum(len(s.boxes) for s in part.samples)} boxes"
        for part in (training, measuring)
    ]
    rows = "".join(
        f"| {light} | {before[light][0]:.3f} | {after[light][0]:.3f} | "
        f"{before[light][1]:.3f} | {after[light][1]:.3f} |\n"
        for light in after
    )
    card = f"""# {BUILT_IN}

The built-in detector: [yolo26n](https://docs.ultralytics.com/models/yolo26) by Ultralytics with the twelve
classes of ExDark ({", ".join(EXDARK_CLASSES)}),
fp16, read without unpickling.

**Licence: AGPL-3.0** (`LICENSE` in this folder), as yolo26n's weights are. The rest of the project is
Apache-2.0.

**Training.** Started from `yolo26n.pt`: of its eighty COCO classes the rows of these twelve are kept in the
last 1×1 convolution of both heads. Then ultralytics' own trainer (AdamW, {epochs} epochs, learning rate
{lr}, backbone frozen) on {sizes[0]}, the even numbers of
`{data.name}` (photographs of COCO train2017 in YOLO's layout). No image was
darkened or enhanced, so it favours no enhancer.

    python experiments/finetune_detector.py {command}

**Measured** on {sizes[1]}, the odd numbers: COCO mAP by pycocotools over
the twelve classes, at 640 pixels, by the end-to-end head without NMS, no enhancer; the darkened rows are
`detection.darken` with seed 0. Both columns saw the same pixels. yolo26n itself was trained on COCO
train2017, so the level says little; the
difference is what counts, and with so few photographs one below about six points is not resolved.

| light | mAP50 yolo26n | mAP50 this | mAP50-95 yolo26n | mAP50-95 this |
| --- | --- | --- | --- | --- |
{rows}"""
    (out / "README.md").write_text(card, encoding="utf-8")
    print(card)


def half(dataset: Dataset, *, even: bool) -> Dataset:
    """Return the images with an even number in their name, or those with an odd one."""
    chosen = (s for s in dataset.samples if (int(Path(s.name).stem) % 2 == 0) == even)
    return dataset.replace(samples=tuple(chosen))


def _save(network: Any, out: Path) -> None:
    tensors = {
        name: (tensor.half() if tensor.is_floating_point() else tensor).contiguous()
        for name, tensor in network.state_dict().items()
    }
    if not all(torch.isfinite(tensor).all() for tensor in tensors.values()):
        raise ValueError("Expected finite weights but got some that fp16 cannot hold.")
    (out / f"{BUILT_IN}.safetensors").write_bytes(to_bytes(tensors))
    keys = ("scale", "end2end", "reg_max", "scales", "backbone", "head")
    architecture = {key: network.yaml[key] for key in keys} | {"nc": 80, "names": list(EXDARK_CLASSES)}
    text = yaml.safe_dump(architecture, sort_keys=False, default_flow_style=None)
    (out / f"{BUILT_IN}.yaml").write_text(
        "# The architecture of yolo26n, AGPL-3.0. Built with COCO's 80 classes, of which `names` are kept.\n"
        + text,
        encoding="utf-8",
    )


def _measure(detector: YOLODetector, dataset: Dataset) -> dict[str, tuple[float, float]]:
    """Return mAP50 and mAP50-95 of the untouched images, clean and at each light level."""
    clean = evaluate(dataset, {"raw": raw}, detector, metrics=(), progress=True)
    dark = evaluate(darken(dataset, *LEVELS), {"raw": raw}, detector, metrics=(), progress=True)
    scores = {"clean": (float(clean["mAP50"][0]), float(clean["mAP50-95"][0]))}
    return scores | {
        r["light"]: (r["mAP50"], r["mAP50-95"]) for r in dark.to_dict("records") if r["light"] in LEVELS
    }
