"""The images that an enhancer helped the detector with most and least, as pairs of pictures with the boxes drawn in."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pandas as pd

from detection.data.core import Detections, Pixels, load_image
from detection.enhancers import Enhancer, Folder, enhanced_by
from detection.evaluate import BASELINE, Record, Results
from detection.report.draw import boxed
from detection.report.page import SIDE, Comparison, jpeg


def gains(images: pd.DataFrame) -> pd.DataFrame:
    """Return what every enhancer changed at every image, the best of each enhancer first.

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


def comparisons(
    results: Results, enhancers: Mapping[str, Enhancer | Folder], *, count: int = 2
) -> dict[str, list[Comparison]]:
    """Return for every enhancer its best images and then its worst ones, beside what ``raw`` shows the detector.

    Drawn are what the first detector found and, thin and white, the boxes of the labels.

    Args:
        results: of `detection.evaluate.collect`.
        enhancers: those of `results`; asked again where they made an image that was not kept.
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
            _comparison(results, enhancers, records, kind, row)
            for kind, rows in (("best", best), ("worst", worst))
            for row in rows.to_dict("records")
        ]
    return chosen


def _comparison(
    results: Results,
    enhancers: Mapping[str, Enhancer | Folder],
    records: Mapping[tuple[int, str], Record],
    kind: str,
    row: Mapping[Any, Any],
) -> Comparison:
    name = row["enhancer"]
    sample, record = results.dataset.samples[row["sample"]], records[row["sample"], name]
    dark = sample.load()

    def picture(found: Detections, image: Pixels) -> bytes:
        scale = min(1.0, SIDE / max(image.shape[:2]))
        # Letters for a picture that is shown at half of its size, in columns or on a phone.
        return jpeg(boxed(image, found, results.dataset.classes, scale, letters=24, labelled=sample.boxes))

    image = (
        load_image(record.file) if record.file else enhanced_by(name, enhancers[name], dark.copy(), sample)
    )
    said = [
        f"{column} {row[column]:.{digits}f} ({row[f'd{column}']:+.{digits}f})"
        for column, digits in (("AP50", 2), ("PSNR", 1))
        if not math.isnan(row[column])
    ]
    return Comparison(
        f"{sample.name}, {sample.light}",
        picture(records[row["sample"], BASELINE].found, dark),
        picture(record.found, image),
        f"among the {kind}: {', '.join(said)}",
        (BASELINE, name),
    )
