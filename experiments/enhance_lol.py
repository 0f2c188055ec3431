"""How close enhanced images come to their references: PSNR, SSIM, LPIPS, or NIQE, time and size for each enhancer.

Without arguments: the six photographs of `detect_exdark.py`, darkened at three levels. With ``--data`` test sets as
they are distributed: LOL-v1 (``eval15``), LOL-v2, LSRW, SICE, and DICM, LIME, MEF, NPE, VV, which have no references.
Writes the table as Markdown, LaTeX, CSV, JSON and a page, and ``images.csv`` with the figures of every image.

    python experiments/enhance_lol.py
    python experiments/enhance_lol.py --data LOLv1/eval15 --lpips lpips_alex.pth --gt-mean
    python experiments/enhance_lol.py --data LOLv2 LSRW/Eval --enhancers raw,gamma,glare,glare@0.5,folder:their_results

A run that was killed goes on where it was.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import torch

from detection import darken, sample_set
from detection.cache import Cache
from detection.data.core import whole_file
from detection.data.paired import read_test_sets
from detection.enhancers import NAMES, check_device, enhancer
from detection.metrics.bootstrap import ENOUGH_PHOTOGRAPHS
from detection.metrics.leakage import find_leakage
from detection.report.charts import bars
from detection.report.page import (
    Comparison,
    Figure,
    Notes,
    Section,
    Table,
    jpeg,
    made_with_section,
    write_html,
)
from detection.report.provenance import command, versions, without_folders
from detection.report.tables import cell, write_csv, write_json, write_latex, write_markdown
from detection.restoration import GT_MEAN, Restoration, enhanced_image, overview, restore
from glare.data.degrade import LEVELS
from glare.metrics import LPIPS

DOWNLOAD = "download"
BEST_AND_WORST = 3


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--data",
        type=Path,
        nargs="+",
        help="folders of test sets: low/ and high/, input/ and target/, Low/ and Normal/, SICE's Label/, images "
        "without references, or folders above such (default: the built-in photographs, darkened)",
    )
    parser.add_argument(
        "--enhancers",
        default=",".join(NAMES),
        help="by name; also glare@FIDELITY, glare=WEIGHTS@FIDELITY, onnx:FILE, folder:PATH, module:callable "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--gt-mean",
        action="store_true",
        help="also the figures after scaling each image to the brightness of its reference, beside the plain ones",
    )
    parser.add_argument(
        "--lpips",
        nargs="?",
        const=DOWNLOAD,
        metavar="FILE",
        help="a column of LPIPS-alex, from the file of its state_dict, or else with torchvision's AlexNet, which is "
        "downloaded",
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, default=Path("runs/enhance_lol"))
    parser.add_argument("--cache", type=Path, help="folder of enhanced images (default: cache in --out)")
    args = parser.parse_args(arguments)
    args.typed = sys.argv[1:] if arguments is None else arguments
    sys.path.append(os.getcwd())  # where modules named in an argument are
    try:
        run(args)
    except (ValueError, OSError, ImportError) as error:
        sys.exit(f"enhance_lol: {error}")
    except KeyboardInterrupt:
        print("enhance_lol: stopped; the same command goes on from here", file=sys.stderr)
        sys.exit(130)


def run(args: argparse.Namespace) -> None:
    check_device(args.device)
    enhancers = {name: enhancer(name, args.device) for name in args.enhancers.split(",")}
    data = read_test_sets(*args.data) if args.data else darken(sample_set(), *LEVELS)
    for fault in data.faults:
        print(f"Fault: {fault}", flush=True)
    lpips = LPIPS(None if args.lpips == DOWNLOAD else args.lpips).to(args.device) if args.lpips else None
    args.out.mkdir(parents=True, exist_ok=True)
    cache = Cache(args.cache or args.out / "cache")

    found = restore(data, enhancers, gt_mean=args.gt_mean, cache=cache, lpips=lpips, progress=True)
    warnings, overlaps = find_leakage(found.samples, found.enhancers)
    notes = [without_folders(note) for note in [*warnings, *notes_on(found, args)]]
    table = found.table()
    read = overview(table)

    write_csv(table, args.out / "results.csv")
    with whole_file(args.out / "images.csv") as beside:
        found.images().to_csv(beside, index=False)  # not rounded
    write_markdown(read, notes, args.out / "results.md")
    write_latex(read, notes, args.out / "results.tex")
    about = {
        "command": command("experiments/enhance_lol.py", args.typed),
        "versions": versions(),
        "data": {
            "sha256": found.fingerprint,
            "used": len(found.samples),
            "of": len(found.dataset) + found.dataset.left_out,
        },
        "enhancers": {name: getattr(one, "identity", None) for name, one in found.enhancers.items()},
        "notes": notes,
        "faults": [without_folders(fault) for fault in found.faults],
        "overlaps": {
            name: [
                {"file": str(o.file), "trained": o.trained, "by": o.by, "bits": o.bits} for o in of_weights
            ]
            for name, of_weights in overlaps.items()
        },
    }
    write_json(table, about, args.out / "results.json")
    made_with = made_with_section(about)
    write_page(found, table, read, notes, made_with, args.out / "report.html")
    print(read.to_string(index=False, na_rep="", formatters=formats(read)))
    print("\n" + "\n".join(notes) + f"\nwritten to {args.out}")


def formats(table: pd.DataFrame) -> dict[str, object]:
    """How each column of numbers is printed."""
    return {
        column: lambda value, column=str(column): cell(column, value)
        for column in table.select_dtypes("float")
    }


def notes_on(found: Restoration, args: argparse.Namespace) -> list[str]:
    """What a reader has to know to judge the table."""
    of = f"Used {len(found.samples)} of {len(found.dataset) + found.dataset.left_out} images"
    notes = [
        f"{of}: {found.dataset.note}." if found.dataset.note else f"{of}.",
        f"Faults: {len(found.faults)}. What is wrong anywhere is listed below and counts in no row."
        if found.faults
        else "No faults.",
        "In brackets: the middle 95 % of the mean over 1000 draws of the scenes; nothing where there are less than "
        f"{ENOUGH_PHOTOGRAPHS} scenes, on which no interval can be relied.",
    ]
    if "PSNR" in found.measures:
        seen = " and LPIPS (AlexNet, version 0.1)" if "LPIPS" in found.measures else ""
        notes.append(
            f"PSNR (dB), SSIM (Gaussian window of 11, σ = 1.5, valid area){seen}: on RGB of 8 bits; the reference is "
            "used for nothing but to compare."
        )
    if args.gt_mean:
        notes.append(
            f"The columns with{GT_MEAN} are of images that were first scaled to the mean grey level of their "
            "reference: they use the answer, and plain gamma shows how much that is worth. Quote the plain ones."
        )
    if "NIQE" in found.measures:
        notes.append(
            "NIQE, the smaller the better, by the published formula with a model of our own (BSDS500): compare its "
            "values with each other and not with published ones."
        )
    notes.append(
        f"{args.device}. ms: mean per image, the enhancer alone, when it was computed. MB: the highest memory of "
        + ("torch's tensors on the GPU" if args.device.startswith("cuda") else "the whole process meanwhile")
        + ". Mparams: millions of parameters. GFLOP: on 256×256, a multiplication and an addition being two."
    )
    return notes + [f"Fault: {fault}" for fault in found.faults]


def write_page(
    found: Restoration,
    table: pd.DataFrame,
    read: pd.DataFrame,
    notes: Sequence[str],
    made_with: Section,
    path: Path,
) -> None:
    """The table, the figures as bars, and for each enhancer the images that it does best and worst on."""
    results: list[Table | Figure | Comparison | Notes] = [Table("All sets", read), Notes(notes)]
    for measure in found.measures:
        chart = bars(table, measure, group="set", interval=(f"{measure}_low", f"{measure}_high"))
        known = table[f"{measure}_low"].notna().any()
        results.append(Figure(f"{measure}, with 95 % intervals" if known else measure, chart.png()))
    sections = [Section("Results", results)]
    main = found.measures[0]
    for name in found.enhancers:
        ranked = sorted(
            (r for r in found.records if r.enhancer == name and main in r.figures),
            key=lambda record: record.figures[main],
            reverse=main != "NIQE",
        )
        best, worst = ranked[:BEST_AND_WORST], ranked[BEST_AND_WORST:][-BEST_AND_WORST:]
        pictures = []
        for record in best + worst if name != "raw" else ():
            image = enhanced_image(found, record)
            if image is not None:
                sample = found.dataset.samples[record.sample]
                pictures.append(
                    Comparison(
                        f"{sample.name} ({sample.light})",
                        jpeg(sample.load()),
                        jpeg(image),
                        f"{main} {cell(main, record.figures[main])}",
                        ("raw", name),
                    )
                )
        if pictures:
            sections.append(Section(f"{name}: best and worst by {main}", pictures))
    write_html(path, "Enhancers in the dark", [*sections, made_with])


if __name__ == "__main__":
    main()
