from pathlib import Path

import pandas as pd

from detection.enhancers import raw
from detection.metrics.image_quality import METRICS, gt_mean
from detection.report.restoration import notes_on_restoration, write_restoration
from detection.runner import collect
from tests.detection.squares import lift, squares


def test_files_and_notes(tmp_path: Path) -> None:
    metrics = [METRICS["PSNR"], gt_mean(METRICS["PSNR"])]
    results = collect(squares(count=10), {"raw": raw, "lift": lift}, metrics=metrics)
    notes = notes_on_restoration(results, "cpu")
    about = {"command": "x", "data": {"sha256": "0"}, "versions": {"python": "3"}}
    write_restoration(tmp_path, results, results.table(), notes, about)
    assert {file.name for file in tmp_path.iterdir()} == {
        *("results.csv", "results.md", "results.tex", "results.json", "images.csv", "report.html")
    }
    images = pd.read_csv(tmp_path / "images.csv")
    assert list(images) == ["set", "image", "enhancer", "PSNR", "PSNR GT-mean", "ms", "MB", "file"]
    assert len(images) == 20
    assert "lift: best and worst by PSNR" in (tmp_path / "report.html").read_text()
    assert notes[0] == "Used 10 of 10 images."
    assert notes[1] == "No faults."
    assert any("Quote the plain ones" in note for note in notes)
