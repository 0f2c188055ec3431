import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from detection import Dataset, Detections
from detection.data.core import Pixels
from detection.enhancers import raw
from detection.metrics.face_in_person import PERSON
from detection.report.faces import notes_on_faces, table_of_faces, write_faces
from detection.runner import collect
from tests.detection.squares import Bright, lift, squares


@pytest.fixture
def faces() -> Dataset:
    """Squares for faces; the centre of a square lies in the upper half, edge included, of the box around it."""
    data = squares(count=12)
    samples = tuple(replace(sample, labels=np.array([0])) for sample in data.samples)
    return data.replace(samples=samples, classes=(PERSON,))


def test_a_row_for_each_enhancer(faces: Dataset) -> None:
    table = table_of_faces(collect(faces, {"raw": raw, "lift": lift}, Bright(), ()), resamples=200)
    columns = {"enhancer", "AP", "dAP", "dAP_low", "dAP_high", "verdict", "images", "faces"}
    assert set(table) == columns
    untouched, lifted = table.to_dict("records")
    assert untouched["AP"] == pytest.approx(51 / 101)  # half of the squares are too dim
    assert lifted["AP"] == pytest.approx(1)
    assert lifted["dAP"] == pytest.approx(50 / 101)
    assert 0 < lifted["dAP_low"] < lifted["dAP"] < lifted["dAP_high"]
    assert (lifted["enhancer"], lifted["verdict"]) == ("lift", "better")
    assert (lifted["images"], lifted["faces"]) == (12, 12)


def test_detectors_have_rows_of_their_own(faces: Dataset) -> None:
    class Lower(Bright):
        """Finds the lowest quarter of a square, which does not hold its centre."""

        def detect(self, image: Pixels) -> Detections:
            seen = super().detect(image)
            return replace(seen, boxes=seen.boxes + np.array([0.0, 30, 0, 0]))

    table = table_of_faces(collect(faces, {"raw": raw}, {"whole": Bright(), "lower": Lower()}, ()))
    assert table["detector"].tolist() == ["whole", "lower"]
    assert table["AP"].tolist() == pytest.approx([51 / 101, 0])


def test_without_raw_nothing_is_compared(faces: Dataset) -> None:
    table = table_of_faces(collect(faces, {"lift": lift}, Bright(), ()))
    assert list(table) == ["enhancer", "AP", "images", "faces"]


def test_files_and_notes(faces: Dataset, tmp_path: Path) -> None:
    def broken() -> None:
        raise OSError("it is cut")

    first, *others = faces.samples
    results = collect(
        faces.replace(samples=(replace(first, load=broken), *others)), {"raw": raw}, Bright(), ()
    )
    table, notes = table_of_faces(results), notes_on_faces(results, ["About the set."])
    assert table["images"].tolist() == [11]
    assert "About the set." in notes
    assert notes[-1].startswith("Fault: 0.png")
    assert "it is cut" in notes[-1]
    write_faces(tmp_path / "new" / "out", table, notes, {"command": "x"})
    folder = tmp_path / "new" / "out"
    assert {file.name for file in folder.iterdir()} == {"results.csv", "results.md", "results.json"}
    stored = pd.read_csv(folder / "results.csv")
    assert list(stored) == list(table)
    assert stored["AP"].tolist() == pytest.approx(table["AP"].tolist(), abs=1e-4)
    markdown = (folder / "results.md").read_text()
    assert all(f"- {note}" in markdown for note in notes)
    content = json.loads((folder / "results.json").read_text())
    assert (content["command"], content["notes"]) == ("x", notes)
    assert content["rows"][0]["faces"] == 11
