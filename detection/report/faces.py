"""The report of an evaluation of persons by the faces that are labelled: see `detection.metrics.face_in_person`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from detection.metrics.bootstrap import paired_bootstrap
from detection.metrics.face_in_person import PERSON, match_faces
from detection.report.tables import write_csv, write_json, write_markdown
from detection.results import BASELINE, Results


def table_of_faces(results: Results, *, resamples: int = 1000, seed: int = 0) -> pd.DataFrame:
    """One row per detector and enhancer, over all images.

    Args:
        results: of a set whose boxes are faces, under the one class ``person``.
        resamples: how many times the photographs are drawn anew for the interval.
        seed: of the draws.

    Returns:
        ``detector`` (where they have names), ``enhancer``, ``AP`` in [0,1], ``dAP``, ``dAP_low`` and ``dAP_high``, the
        difference from ``raw`` with its 95 % interval, ``verdict``, ``images`` and ``faces``.
    """
    truth = [results.dataset.samples[number] for number in results.samples]
    rows = []
    for detector in results.detectors:
        matches = {
            name: match_faces(
                truth, [r.found for r in results.records if (r.enhancer, r.detector) == (name, detector)]
            )
            for name in results.enhancers
        }
        scenes = [sample.scene for sample in truth]
        compared = (
            paired_bootstrap(matches, BASELINE, scenes, resamples=resamples, seed=seed)
            if BASELINE in matches
            else {}
        )
        for name, one in matches.items():
            row: dict[str, object] = {"detector": detector} if detector else {}
            row |= {"enhancer": name, "AP": one.summary([PERSON])["mAP50"]}
            if name in compared:
                difference = compared[name][0]
                row |= {"dAP": difference.value, "dAP_low": difference.low, "dAP_high": difference.high}
                row["verdict"] = difference.verdict
            rows.append(row | {"images": len(truth), "faces": sum(len(sample.boxes) for sample in truth)})
    return pd.DataFrame(rows)


def notes_on_faces(results: Results, about: Sequence[str]) -> list[str]:
    """Return what a reader has to know to judge the table; ``about`` tells of the set and the detectors."""
    return [
        "AP of persons, over their scores: a box counts when the centre of a labelled face lies in its upper half, "
        "each face for one box. A person whose face is not labelled, turned away, say, is a false alarm here, and "
        "where a box ends is not judged: compare rows, and not with an AP by IoU.",
        "dAP: the difference from raw and the middle 95 % of it over 1000 draws of the photographs.",
        *about,
        *(f"Fault: {fault}" for fault in results.faults),
    ]


def write_faces(
    folder: Path, table: pd.DataFrame, notes: Sequence[str], made_with: Mapping[str, Any]
) -> None:
    """Write the table as CSV, Markdown and JSON."""
    folder.mkdir(parents=True, exist_ok=True)
    write_csv(table, folder / "results.csv")
    write_markdown(table, notes, folder / "results.md")
    write_json(table, {**made_with, "notes": notes}, folder / "results.json")
