"""The best and the worst images of each enhancer, as pairs of pictures: by a detector's gain, or by a metric."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pandas as pd

from detection.data.core import Detections, Pixels
from detection.metrics.image_quality import Metric
from detection.report.draw import boxed
from detection.report.page import SIDE, Comparison, jpeg
from detection.report.tables import cell
from detection.results import BASELINE, Record, Results


def gains(images: pd.DataFrame) -> pd.DataFrame:
    """Return the gain of every enhancer at every image, the best of each enhancer first.

    Args:
        images: those of `Results.images`.

    Returns:
        The rows of all enhancers but ``raw`` with two more columns, ``dAP50`` and ``dPSNR``, the differences from
        ``raw``. The order is that of ``dAP50``, and among equals of ``dPSNR``; images where there is nothing to
        find are left out, unless that is all of them.
    """
    keys = ["detector", "sample"]
    of_raw = images[images["enhancer"] == BASELINE].set_index(keys)[["AP50", "PSNR"]]
    others = images[images["enhancer"] != BASELINE].join(of_raw, on=keys, rsuffix="_raw")
    others = others.assign(
        dAP50=others["AP50"] - others["AP50_raw"], dPSNR=others["PSNR"] - others["PSNR_raw"]
    ).drop(columns=["AP50_raw", "PSNR_raw"])
    if others["dAP50"].notna().any():
        others = others[others["dAP50"].notna()]
    return others.sort_values(["dAP50", "dPSNR"], ascending=False, kind="stable")


def comparisons(results: Results, *, count: int = 2) -> dict[str, list[Comparison]]:
    """Return the best images of every enhancer and then its worst ones, beside the untouched images.

    Drawn are what the first detector found and, thin and white, the boxes of the labels.

    Args:
        results: of `detection.runner.collect`, with detectors.
        count: how many photographs of each kind.

    Returns:
        By the enhancer's name; empty where there is no ``raw`` to compare with.
    """
    if BASELINE not in results.enhancers:
        return {}
    detector = results.detectors[0]
    records = {(r.sample, r.enhancer): r for r in results.records if r.detector == detector}
    images = results.images()
    changed = gains(images[images["detector"] == detector])
    chosen: dict[str, list[Comparison]] = {}
    for enhancer in (name for name in results.enhancers if name != BASELINE):
        best = changed[changed["enhancer"] == enhancer].drop_duplicates("name")
        worst = changed[changed["enhancer"] == enhancer][::-1].drop_duplicates("name")
        best = best.head(count)
        worst = worst.drop(best.index, errors="ignore").head(count)
        chosen[enhancer] = [
            _comparison(results, records, kind, row)
            for kind, rows in (("best", best), ("worst", worst))
            for row in rows.to_dict("records")
        ]
    return chosen


def _comparison(
    results: Results, records: Mapping[tuple[int, str], Record], kind: str, row: Mapping[Any, Any]
) -> Comparison:
    name = row["enhancer"]
    sample, record = results.dataset.samples[row["sample"]], records[row["sample"], name]
    dark = sample.load()

    def picture(found: Detections, image: Pixels) -> bytes:
        scale = min(1.0, SIDE / max(image.shape[:2]))
        # Letters for a picture that is shown at half of its size, in columns or on a phone.
        return jpeg(boxed(image, found, results.dataset.classes, scale, letters=24, labelled=sample.boxes))

    said = [
        f"{column} {row[column]:.{digits}f} ({row[f'd{column}']:+.{digits}f})"
        for column, digits in (("AP50", 2), ("PSNR", 1))
        if not math.isnan(row[column])
    ]
    return Comparison(
        f"{sample.name}, {sample.light}",
        picture(records[row["sample"], BASELINE].found, dark),
        picture(record.found, results.enhanced(record)),
        f"among the {kind}: {', '.join(said)}",
        (BASELINE, name),
    )


def by_metric(results: Results, metric: Metric, *, count: int = 3) -> dict[str, list[Comparison]]:
    """Return the best images of every enhancer but ``raw`` by a metric, and then the worst, beside ``raw``.

    Args:
        results: of `detection.runner.collect`, without detectors.
        metric: one of `results`.
        count: how many images of each kind.

    Returns:
        By the enhancer's name, those that the metric judged anything of.
    """
    chosen: dict[str, list[Comparison]] = {}
    for name in (name for name in results.enhancers if name != BASELINE):
        ranked = sorted(
            (r for r in results.records if r.enhancer == name and metric.name in r.quality),
            key=lambda record: record.quality[metric.name],
            reverse=metric.higher_is_better,
        )
        if ranked:
            chosen[name] = [
                Comparison(
                    f"{sample.name} ({sample.light})",
                    jpeg(sample.load()),
                    jpeg(results.enhanced(record)),
                    f"{metric.name} {cell(metric.name, record.quality[metric.name])}",
                    (BASELINE, name),
                )
                for record in ranked[:count] + ranked[count:][-count:]
                for sample in [results.dataset.samples[record.sample]]
            ]
    return chosen
