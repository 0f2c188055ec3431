"""The report of an evaluation with detectors."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from detection.data.core import Dataset, Detections, Pixels, Sample, stems
from detection.metrics.bootstrap import ENOUGH_PHOTOGRAPHS
from detection.metrics.image_quality import METRICS
from detection.report.best_worst import comparisons
from detection.report.charts import Chart, bars, curves
from detection.report.draw import Panel, save_picture, side_by_side, stacked
from detection.report.page import Figure, Notes, Section, Table, made_with_section, write_html
from detection.report.tables import details, overview, write_csv, write_json, write_latex, write_markdown
from detection.results import Results


class Pictures:
    """One side-by-side picture per photograph: a row per light, the labelled image, then every enhancer.

    Of several draws of the noise it shows the first.

    Args:
        folder: where they are written.
        dataset: the set.
    """

    def __init__(self, folder: Path, dataset: Dataset) -> None:
        self.folder = folder
        self.classes = dataset.classes
        names = list(dict.fromkeys(sample.name for sample in dataset.samples))
        self._stems = dict(zip(names, stems([name.replace("/", "_") for name in names]), strict=True))
        self._name = ""
        self._rows: list[Image.Image] = []

    def __call__(self, sample: Sample, seen: Mapping[str, tuple[Pixels, Detections]]) -> None:
        """Draw a sample, see `detection.runner.OnImage`."""
        if sample.draw > 0:
            return
        if sample.name != self._name:
            self._name, self._rows = sample.name, []
        labelled = Detections(sample.boxes, np.ones(len(sample.boxes)), sample.labels)
        image = sample.reference() if sample.reference else sample.load()
        panels = [Panel("labelled", image, labelled, scores=False)]
        panels += [Panel(f"{name}, {sample.light}", image, found) for name, (image, found) in seen.items()]
        self._rows.append(side_by_side([panels], self.classes))
        # The picture is written anew with every light, so that it is whole whenever the run ends.
        save_picture(stacked(self._rows), self.folder / self.file(sample))

    def file(self, sample: Sample) -> str:
        """Return the name of the picture of a sample's photograph."""
        return f"{self._stems[sample.name]}.jpg"


def remove_pictures(folder: Path, but: Collection[str]) -> None:
    """Remove the pictures that an earlier run listed in its results and this one does not show."""
    try:
        earlier = json.loads((folder / "results.json").read_text(encoding="utf-8")).get("pictures", [])
    except (OSError, ValueError):
        return
    for name in set(earlier) - set(but):
        if Path(name).name == name:  # a damaged file must not lead outside of the folder
            (folder / name).unlink(missing_ok=True)


def write_bench(
    folder: Path, results: Results, table: pd.DataFrame, notes: Sequence[str], made_with: Mapping[str, Any]
) -> None:
    """Write the tables, the charts and the page, all but the pictures of each photograph.

    Args:
        folder: where to.
        results: with detectors.
        table: of them.
        notes: what a reader has to know.
        made_with: what stands in the JSON besides, see `detection.report.page.made_with_section`.
    """
    short, long = overview(table), details(table)
    write_csv(table, folder / "results.csv")
    write_markdown(short, notes, folder / "results.md", more=long)
    write_latex(short, notes, folder / "results.tex")
    write_json(table, {**made_with, "notes": notes}, folder / "results.json")
    figures = []
    for old in folder.iterdir():  # charts of an earlier run, perhaps with other detectors
        if re.fullmatch(r"(by_light|precision_recall)(-.+)?\.(png|pdf)", old.name):
            old.unlink()
    for stem, caption, chart in _charts(results, table):
        for kind in ("png", "pdf"):
            chart.save(folder / f"{stem}.{kind}")
        figures.append(Figure(caption, chart.png()))
    found_by = f" {results.detectors[0]}" if results.detectors[0] else ""
    best_and_worst = (
        f"What the camera saw, left of the slider, and the enhanced image, with what the detector{found_by} found in "
        "each; the thin white boxes are the labels. By the difference from raw in the AP50 of the image on its own, "
        "among equals in PSNR."
    )
    pairs = comparisons(results)
    write_html(
        folder / "report.html",
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


def _charts(results: Results, table: pd.DataFrame) -> Iterator[tuple[str, str, Chart]]:
    """Yield file name, caption and chart: for each detector the bars per light and the precision-recall curves."""
    curve = results.precision_recall()
    everywhere = table[table["place"] == "all"] if "place" in table else table
    for name in results.detectors:
        rows = everywhere[everywhere["detector"] == name] if name else everywhere
        # The interval of the difference, drawn from raw's value.
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
            f"{title}Precision over recall at an IoU threshold of 0.50, all images, the mean over the classes. The "
            "number is its mean, mAP50.",
            curves(points, "recall", "precision", labels=[f"{n}  {mean:.3f}" for n, mean in means.items()]),
        )


def notes_on_bench(
    table: pd.DataFrame, dataset: Dataset, detectors: Sequence[str], seeds: range, device: str
) -> list[str]:
    """Return notes that a reader needs to judge the table.

    Args:
        table: of `detection.evaluate`.
        dataset: the set, before it was darkened.
        detectors: their names.
        seeds: of the noise, one for each draw.
        device: where everything was computed.
    """
    rows = table[table["light"] != "all"] if "place" not in table else table
    sizes = rows[["images", "boxes"]].drop_duplicates()
    rests = " or ".join(f"{images} images with {boxes} boxes" for images, boxes in sizes.to_numpy())
    if len(sizes) > 3:
        rests = f"{sizes['images'].min()} to {sizes['images'].max()} images"
    darkened = table["PSNR"].notna().any()
    by = f"seeds {seeds[0]} to {seeds[-1]}" if len(seeds) > 1 else f"seed {seeds[0]}"
    notes = [
        f"Each row rests on {rests}{f': {dataset.note}' if dataset.note else ''}.",
        f"Used {table.attrs['used']} of {table.attrs['of']} images; what failed anywhere counts in no row.",
        f"Detector {', '.join(detectors)}, {by}, {device}."
        + (" All rows of a light saw the same noise." if darkened else "")
        + (f" Each photograph was darkened {len(seeds)} times." if len(seeds) > 1 else ""),
        f"mAP by pycocotools over the classes that occur, of the {len(dataset.classes)} that were asked for; boxes of "
        "others are left out (`--classes`). VOC_AP50: the area under the precision-recall curve, as in "
        "PASCAL VOC since 2010.",
        (
            "PSNR (dB) and SSIM (Gaussian window, σ = 1.5) are against the image before darkening, without GT-mean. "
            if darkened
            else ""
        )
        + "ms: mean per image, the enhancer alone. MB: the highest memory of "
        + ("torch's tensors on the GPU." if device.startswith("cuda") else "the whole process meanwhile."),
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
    niqe = METRICS["NIQE"].name
    if niqe in table and table[niqe].notna().any():
        notes.append(
            f"{niqe}, the smaller the better, of the images that it can judge behind every enhancer, by the published "
            "formula with a model of our own (BSDS500): compare its values with each other. It knows nothing of what "
            "a detector sees."
        )
    return notes + [f"Fault: {fault}" for fault in table.attrs["faults"]]
