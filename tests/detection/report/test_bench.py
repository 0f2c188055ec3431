import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from detection import Dataset, evaluate
from detection.enhancers import raw
from detection.report.bench import Pictures, notes_on_bench, remove_pictures
from tests.detection.squares import Bright, found, squares


def test_a_picture_for_each_photograph_with_a_row_for_each_light(tmp_path: Path) -> None:
    data = squares("day", "dusk", count=2)
    pictures = Pictures(tmp_path, data)
    for one in data.samples:
        pictures(one, {"raw": (one.load(), found([], [], []))})
    assert sorted(file.name for file in tmp_path.iterdir()) == ["0.jpg", "1.jpg"]
    with Image.open(tmp_path / "0.jpg") as picture:
        assert picture.width == 2 * 400  # labelled, raw
        assert picture.height > 2 * 400  # two lights of a square


def test_of_several_draws_the_first_is_shown(tmp_path: Path) -> None:
    data = squares(count=1)
    pictures = Pictures(tmp_path, data)
    for draw in (1, 0, 2):
        one = replace(data.samples[0], draw=draw)
        pictures(one, {"raw": (one.load(), found([], [], []))})
        if draw == 1:
            assert not list(tmp_path.iterdir())
    with Image.open(tmp_path / "0.jpg") as picture:
        assert picture.height < 2 * 400


def test_notes_of_several_draws() -> None:
    data = squares(count=10)
    table = evaluate(data, {"raw": raw}, Bright())
    text = "\n".join(notes_on_bench(table, data, ["bright"], range(3, 6), "cpu"))
    assert "Detector bright, seeds 3 to 5, cpu." in text
    assert "Each photograph was darkened 3 times." in text


def test_only_what_an_earlier_run_names_is_removed(tmp_path: Path) -> None:
    for name in ("old.jpg", "kept.jpg", "mine.jpg"):
        (tmp_path / name).write_text("")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "results.json").write_text(json.dumps({"pictures": ["../mine.jpg"]}))
    remove_pictures(tmp_path / "out", [])
    (tmp_path / "results.json").write_text(json.dumps({"pictures": ["old.jpg", "kept.jpg"]}))
    remove_pictures(tmp_path, ["kept.jpg"])
    assert {file.name for file in tmp_path.glob("*.jpg")} == {"kept.jpg", "mine.jpg"}


@pytest.mark.parametrize("device", ["cpu", "cuda:0"])
def test_notes(device: str) -> None:
    data = squares(count=10)
    table = evaluate(data, {"raw": raw, "black": np.zeros_like}, Bright())
    text = "\n".join(
        notes_on_bench(table, Dataset(data.samples, note="squares"), ["bright"], range(3, 4), device)
    )
    assert "Each row rests on 10 images with 10 boxes: squares." in text
    assert f"Detector bright, seed 3, {device}." in text
    assert "Each of the 1 intervals has a chance of 5 %" in text
    assert "was darkened" not in text
    assert ("torch's tensors on the GPU" in text) == device.startswith("cuda")
    assert "NIQE" not in text
