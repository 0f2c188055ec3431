"""Which enhancer helps a detector in the dark: mAP, PSNR, SSIM and time for each light level and enhancer.

Without arguments: six photographs that ship with the dependencies, darkened at three levels, the built-in
twelve-class detector. Writes the table as ``results.csv``, ``.md``, ``.tex`` and ``.json``, two charts, one
side-by-side picture per photograph, and ``report.html`` with all of it, a page for every browser.

    python experiments/detect_exdark.py
    python experiments/detect_exdark.py --data my_set/annotations.json --enhancers raw,glare,my_module:enhance
    python experiments/detect_exdark.py --data exdark --split test

A run that was killed goes on where it was. ``accelerate launch`` in place of ``python`` (on CPUs ``torchrun``) shares
the photographs among processes or machines; the table is the same.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
import torch
from PIL import Image

from detection import (
    COCO_CLASSES,
    EXDARK_CLASSES,
    Dataset,
    Detections,
    Sample,
    darken,
    read_dataset,
    sample_set,
)
from detection.cache import Cache
from detection.data.core import Pixels, stems
from detection.detectors import BUILT_IN, detector
from detection.enhancers import NAMES, Enhancer, Folder, check_device, enhancer, raw
from detection.evaluate import Results, collect
from detection.faults import FaultError, blame
from detection.metrics.bootstrap import ENOUGH_PHOTOGRAPHS
from detection.report.best_worst import comparisons
from detection.report.charts import Chart, bars, curves
from detection.report.draw import Panel, save_picture, side_by_side, stacked
from detection.report.page import Figure, Notes, Section, Table, made_with_section, write_html
from detection.report.provenance import command, portable, versions, without_folders
from detection.report.tables import (
    details,
    overview,
    rounded,
    write_csv,
    write_json,
    write_latex,
    write_markdown,
)
from glare.data.degrade import LEVELS
from glare.metrics import LPIPS

T = TypeVar("T")

# How many processes there are, as torchrun and the kinds of MPI tell.
PROCESSES = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
CLASSES = {"exdark": EXDARK_CLASSES, "coco": COCO_CLASSES}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--data",
        type=Path,
        help="a folder of ExDark, DARK FACE or YOLO's layout, a data.yaml, or a COCO JSON (default: the built-in set)",
    )
    parser.add_argument(
        "--split",
        help="of ExDark: train, val, test or a file of names (default: test); of a data.yaml (default: val)",
    )
    parser.add_argument("--images", type=Path, help="folder with the images of the COCO JSON")
    parser.add_argument(
        "--classes", choices=CLASSES, default="exdark", help="classes to find (default: exdark)"
    )
    parser.add_argument(
        "--detector",
        default=BUILT_IN,
        help="one or more of: a name or checkpoint of ultralytics', a name of torchvision's, or with its weights "
        "NAME=FILE, module:callable (default: %(default)s)",
    )
    parser.add_argument(
        "--enhancers",
        default=",".join(NAMES),
        help="by name; also glare@FIDELITY, glare=WEIGHTS@FIDELITY, onnx:FILE, folder:PATH, module:callable "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--levels",
        help="how dark to make the images, or `none` if they are dark already (default: "
        f"{','.join(LEVELS)}; `none` for a set that says what light it was taken in, as ExDark does)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the simulated noise (default: 0)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--lpips", type=Path, help="state_dict of LPIPS-alex, for a column of that measure")
    parser.add_argument("--out", type=Path, default=Path("runs/detect_exdark"))
    parser.add_argument(
        "--cache", type=Path, help="folder of enhanced images and detections (default: cache in --out)"
    )
    args = parser.parse_args(arguments)
    args.typed = sys.argv[1:] if arguments is None else arguments
    sys.path.append(os.getcwd())  # where modules named in an argument are
    try:
        run(args)
    except (ValueError, OSError, ImportError, FaultError) as error:
        sys.exit(f"detect_exdark: {error}")
    except KeyboardInterrupt:
        print("detect_exdark: stopped; the same command goes on from here", file=sys.stderr)
        sys.exit(130)


def run(args: argparse.Namespace) -> None:
    first = join(args)
    check_device(args.device)
    enhancers = by_name(args.enhancers, lambda name: enhancer(name, args.device))
    if args.data is None:
        clean = sample_set()
    else:
        clean = read_dataset(args.data, images=args.images, split=args.split, classes=CLASSES[args.classes])
    for fault in clean.faults if first else ():
        print(f"Fault: {fault}", flush=True)
    dark_already = any(sample.light != Sample.light for sample in clean.samples)
    levels = args.levels.split(",") if args.levels else ["none"] if dark_already else list(LEVELS)
    data = clean if levels == ["none"] else darken(clean, *levels, seed=args.seed)
    built = by_name(args.detector, lambda name: detector(name, device=args.device))
    for name, one in built.items():
        with blame(f"detector `{name}`"):
            one([np.zeros((64, 64, 3), np.uint8)])
    detectors = built if len(built) > 1 else next(iter(built.values()))
    lpips = LPIPS(args.lpips).to(args.device) if args.lpips else None
    args.out.mkdir(parents=True, exist_ok=True)
    cache = Cache(args.cache or args.out / "cache")

    pictures = Pictures(args.out, data)
    results = collect(data, detectors, enhancers, cache=cache, lpips=lpips, progress=True, on_image=pictures)
    day = None if data is clean else collect(clean, detectors, {"raw": raw}, cache=cache)
    if not first:
        return
    table = results.table()
    notes = notes_on(table, clean, args, list(built))
    for row in [] if day is None else day.table().to_dict("records"):
        of = f" {row['detector']}:" if len(built) > 1 else ""
        notes.insert(
            1, f"By day, before darkening:{of} mAP50 {row['mAP50']:.4f}, mAP50-95 {row['mAP50-95']:.4f}."
        )
    print(rounded(overview(table)).to_string(index=False, na_rep=""))
    print("\n" + "\n".join(notes))
    made_with = {
        "command": command("experiments/detect_exdark.py", args.typed),
        "versions": versions(),
        "data": {"sha256": results.fingerprint, "used": table.attrs["used"], "of": table.attrs["of"]},
        "detectors": {name: getattr(one, "identity", None) for name, one in built.items()},
        "enhancers": {name: getattr(enhancers[name], "identity", None) for name in results.enhancers},
    }
    files = sorted({pictures.file(data.samples[number]) for number in results.samples})
    remove_pictures(args.out, files)
    made_with["pictures"] = files
    write(args.out, results, table, enhancers, [without_folders(note) for note in notes], made_with)
    print(f"written to {args.out}: {args.out / 'report.html'} shows it all")


def remove_pictures(out: Path, but: Collection[str]) -> None:
    """Remove the pictures that an earlier run wrote, as its results tell, and this one does not show."""
    try:
        earlier = json.loads((out / "results.json").read_text(encoding="utf-8")).get("pictures", [])
    except (OSError, ValueError):
        return
    for name in set(earlier) - set(but):
        if Path(name).name == name:  # whatever became of the file, nothing beside the folder is touched
            (out / name).unlink(missing_ok=True)


def by_name(names: str, build: Callable[[str], T]) -> dict[str, T]:
    """What a list of names stands for; the rows of the table tell no folders, unless only those tell them apart."""
    typed = names.split(",")
    shown = [portable(name) for name in typed]
    titles = shown if len(set(shown)) == len(shown) else typed
    return {title: build(name) for title, name in zip(titles, typed, strict=True)}


def write(
    out: Path,
    results: Results,
    table: pd.DataFrame,
    enhancers: Mapping[str, Enhancer | Folder],
    notes: Sequence[str],
    made_with: Mapping[str, Any],
) -> None:
    """All files but the pictures of each photograph."""
    short, long = overview(table), details(table)
    write_csv(table, out / "results.csv")
    write_markdown(short, notes, out / "results.md", more=long)
    write_latex(short, notes, out / "results.tex")
    write_json(table, {**made_with, "notes": notes}, out / "results.json")
    figures = []
    for old in out.iterdir():  # of an earlier run, whose detectors may have been others
        if re.fullmatch(r"(by_light|precision_recall)(-.+)?\.(png|pdf)", old.name):
            old.unlink()
    for stem, caption, chart in charts(results, table):
        for kind in ("png", "pdf"):
            chart.save(out / f"{stem}.{kind}")
        figures.append(Figure(caption, chart.png()))
    found_by = f" {results.detectors[0]}" if results.detectors[0] else ""
    best_and_worst = (
        f"What the camera saw, left of the slider, and the enhanced image, with what the detector{found_by} found in "
        "each; the thin white boxes are the labels. By the difference from raw in the AP50 of the image on its own, "
        "among equals in PSNR."
    )
    pairs = comparisons(results, enhancers)
    write_html(
        out / "report.html",
        "Which enhancer helps a detector in the dark",
        [
            Section("Results", [Table("Accuracy, quality and price", short), Notes(notes)]),
            Section("Charts", figures),
            *([Section("The best and the worst images", [Notes([best_and_worst])])] if pairs else []),
            *(Section(name, pictures) for name, pictures in pairs.items()),
            Section("By size and class", [Table("Average recall and precision", long)]),
            made_with_section(made_with),
        ],
    )


def charts(results: Results, table: pd.DataFrame) -> Iterator[tuple[str, str, Chart]]:
    """Name of the file, caption and chart: for each detector the bars per light and the precision-recall curves."""
    curve = results.precision_recall()
    everywhere = table[table["place"] == "all"] if "place" in table else table
    for name in results.detectors:
        rows = everywhere[everywhere["detector"] == name] if name else everywhere
        # The interval of the difference, from where raw stands.
        of_raw = rows["mAP50"] - rows["dmAP50"]
        rows = rows.assign(low=of_raw + rows["dmAP50_low"], high=of_raw + rows["dmAP50_high"])
        end = re.sub(r"[^\w.-]", "_", f"-{name}") if name else ""
        title = f"{name}: " if name else ""
        yield (
            f"by_light{end}",
            f"{title}mAP50 by light. A whisker is the 95 % interval of the difference from raw: where it reaches "
            "the end of raw's bar, the difference is within noise.",
            bars(rows, "mAP50", interval=("low", "high")),
        )
        points = curve[curve["detector"] == name]
        means = points.groupby("enhancer", sort=False)["precision"].mean()
        yield (
            f"precision_recall{end}",
            f"{title}Precision over recall at an overlap of 0.50, all images, the mean over the classes. The "
            "number is its mean, mAP50.",
            curves(points, "recall", "precision", labels=[f"{n}  {mean:.3f}" for n, mean in means.items()]),
        )


def join(args: argparse.Namespace) -> bool:
    """Join the other processes, where ``accelerate launch`` or ``torchrun`` started several; whether this is the first.

    Each computes on its own GPU, where there are any.
    """
    if all(int(os.environ.get(name, 1)) == 1 for name in PROCESSES):
        return True
    from accelerate import PartialState

    # Long, since one may find its share done by an earlier run and wait for the others.
    state = PartialState(cpu=args.device == "cpu", timeout=timedelta(days=7))
    if args.device == "cuda":
        args.device = str(state.device)
    return bool(state.is_main_process)


class Pictures:
    """One side-by-side picture per photograph: a row per light, the labelled image, then every enhancer."""

    def __init__(self, folder: Path, data: Dataset) -> None:
        self.folder = folder
        self.classes = data.classes
        names = list(dict.fromkeys(sample.name for sample in data.samples))
        self.stems = dict(zip(names, stems([name.replace("/", "_") for name in names]), strict=True))
        self.name = ""
        self.rows: list[Image.Image] = []

    def __call__(self, sample: Sample, seen: Mapping[str, tuple[Pixels, Detections]]) -> None:
        if sample.name != self.name:
            self.name, self.rows = sample.name, []
        labelled = Detections(sample.boxes, np.ones(len(sample.boxes)), sample.labels)
        image = sample.reference() if sample.reference else sample.load()
        panels = [Panel("labelled", image, labelled, scores=False)]
        panels += [Panel(f"{name}, {sample.light}", image, found) for name, (image, found) in seen.items()]
        self.rows.append(side_by_side([panels], self.classes))
        # Written anew with every light, so that it is whole whenever the run ends.
        save_picture(stacked(self.rows), self.folder / self.file(sample))

    def file(self, sample: Sample) -> str:
        """The name of the picture of a sample's photograph."""
        return f"{self.stems[sample.name]}.jpg"


def notes_on(
    table: pd.DataFrame, clean: Dataset, args: argparse.Namespace, detectors: Sequence[str]
) -> list[str]:
    """What a reader has to know to judge the table."""
    rows = table[table["light"] != "all"] if "place" not in table else table
    sizes = rows[["images", "boxes"]].drop_duplicates()
    rests = " or ".join(f"{images} images with {boxes} boxes" for images, boxes in sizes.to_numpy())
    if len(sizes) > 3:
        rests = f"{sizes['images'].min()} to {sizes['images'].max()} images"
    faults = table.attrs["faults"]
    darkened = table["PSNR"].notna().any()
    notes = [
        f"Each row rests on {rests}{f': {clean.note}' if clean.note else ''}.",
        f"Used {table.attrs['used']} of {table.attrs['of']} images; what failed anywhere counts in no row.",
        f"Detector {', '.join(detectors)}, seed {args.seed}, {args.device}."
        + (" All rows of a light saw the same noise." if darkened else ""),
        f"mAP by pycocotools over the classes that occur, of the {len(clean.classes)} that were asked for; boxes of "
        "others are left out (`--classes`). VOC_AP50: the area under the precision-recall curve, as in "
        "PASCAL VOC since 2010.",
        (
            "PSNR (dB) and SSIM (Gaussian window, σ = 1.5) are against the image before darkening, without GT-mean. "
            if darkened
            else ""
        )
        + "ms: mean per image, the enhancer alone. MB: the highest memory of "
        + (
            "torch's tensors on the GPU."
            if args.device.startswith("cuda")
            else "the whole process meanwhile."
        ),
    ]
    if table["verdict"].any():
        judged = int(table["dmAP50_low"].notna().sum())
        notes.insert(
            4,
            "Against raw: the difference in mAP50 and the middle 95 % of it over 1000 draws of the photographs; within "
            f"noise means that 0 is in there, too few images that there are less than {ENOUGH_PHOTOGRAPHS} "
            "photographs, on which no interval can be relied."
            + (
                f" Each of the {judged} intervals has a chance of 5 % to leave out 0 where there is no effect: look "
                "for what holds in many rows."
                if judged
                else ""
            ),
        )
    return notes + [f"Fault: {fault}" for fault in faults]


if __name__ == "__main__":
    main()
