"""The report of an evaluation without detectors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from detection.metrics.bootstrap import ENOUGH_PHOTOGRAPHS
from detection.metrics.image_quality import DEFINITIONS, GT_MEAN, METRICS
from detection.report.best_worst import by_metric
from detection.report.charts import bars
from detection.report.page import Comparison, Figure, Notes, Section, Table, made_with_section, write_html
from detection.report.tables import with_intervals, write_csv, write_json, write_latex, write_markdown
from detection.results import Results
from glare.files import whole_file


def write_restoration(
    folder: Path, results: Results, table: pd.DataFrame, notes: Sequence[str], made_with: Mapping[str, Any]
) -> None:
    """Write the tables, ``images.csv`` with the figures of every image, and the page.

    Args:
        folder: where to.
        results: without detectors.
        table: of them.
        notes: what a reader has to know.
        made_with: what stands in the JSON besides, see `detection.report.page.made_with_section`.
    """
    read = with_intervals(table)
    write_csv(table, folder / "results.csv")
    metrics = [metric.name for metric in results.metrics]
    images = results.images()[["light", "name", "enhancer", *metrics, "ms", "MB", "file"]]
    with whole_file(folder / "images.csv") as beside:
        images.rename(columns={"light": "set", "name": "image"}).to_csv(beside, index=False)  # not rounded
    write_markdown(read, notes, folder / "results.md")
    write_latex(read, notes, folder / "results.tex")
    write_json(table, made_with, folder / "results.json")

    parts: list[Table | Figure | Comparison | Notes] = [Table("All sets", read), Notes(notes)]
    for name in metrics:
        chart = bars(table, name, group="set", interval=(f"{name}_low", f"{name}_high"))
        known = table[f"{name}_low"].notna().any()
        parts.append(Figure(f"{name}, with 95 % intervals" if known else name, chart.png()))
    first = results.metrics[0]
    sections = [
        Section(f"{name}: best and worst by {first.name}", pictures)
        for name, pictures in by_metric(results, first).items()
    ]
    sections = [Section("Results", parts), *sections, made_with_section(made_with)]
    write_html(folder / "report.html", "Enhancers in the dark", sections)


def notes_on_restoration(results: Results, device: str) -> list[str]:
    """Return notes that a reader needs to judge a table that was computed on a device."""
    metrics = [metric.name for metric in results.metrics]
    of = f"Used {len(results.samples)} of {len(results.dataset) + results.dataset.left_out} images"
    notes = [
        f"{of}: {results.dataset.note}." if results.dataset.note else f"{of}.",
        f"Faults: {len(results.faults)}. What is wrong anywhere is listed below and counts in no row."
        if results.faults
        else "No faults.",
        "In brackets: the middle 95 % of the mean over 1000 draws of the scenes; nothing where there are less than "
        f"{ENOUGH_PHOTOGRAPHS} scenes, on which no interval can be relied.",
    ]
    if "PSNR" in metrics:
        seen = " and LPIPS (AlexNet, version 0.1)" if "LPIPS" in metrics else ""
        notes.append(
            f"PSNR (dB), SSIM (Gaussian window of 11, σ = 1.5, valid area){seen}: on RGB of 8 bits; the reference is "
            "used for nothing but to compare."
        )
    if any(name.endswith(GT_MEAN) for name in metrics):
        notes.append(
            f"The columns with{GT_MEAN} are of images that were first scaled to the mean grey level of their "
            "reference: they use the answer, and plain gamma shows how much that is worth. Quote the plain ones."
        )
    for definition, others in DEFINITIONS.items():
        if others[0].name in metrics:
            notes.append(
                f"{' and '.join(one.name for one in others)}: by the definition of others (docs/metrics.md), to "
                f"compare with figures of {definition} alone. Quote the plain ones."
            )
    if METRICS["NIQE"].name in metrics:
        notes.append(
            f"{METRICS['NIQE'].name}, the smaller the better, by the published formula with a model fitted by us "
            "(BSDS500): compare its values with each other and not with published ones."
        )
    notes.append(
        f"{device}. ms: mean per image, the enhancer alone, when it was computed. MB: the highest memory of "
        + ("torch's tensors on the GPU" if device.startswith("cuda") else "the whole process meanwhile")
        + ". Mparams: millions of parameters. GFLOP: on 256×256, a multiplication and an addition being two."
    )
    return notes + [f"Fault: {fault}" for fault in results.faults]
