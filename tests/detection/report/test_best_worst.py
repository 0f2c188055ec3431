from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from detection import Cache, Dataset, Detections, Sample
from detection.data.core import Pixels
from detection.enhancers import Named, raw
from detection.report.best_worst import comparisons, gains
from detection.results import Results
from detection.runner import collect

NAN = float("nan")


def test_gains() -> None:
    images = pd.DataFrame(
        {
            "detector": "",
            "sample": [0, 0, 1, 1, 2, 2, 3, 3],
            "enhancer": ["raw", "lift"] * 4,
            "AP50": [0.5, 0.75, 1.0, 0.25, 0.5, 0.75, NAN, NAN],
            "PSNR": [10, 12, 10.0, 30, 10, 15, 10, 50],
        }
    )
    table = gains(images)
    assert table["sample"].tolist() == [
        2,
        0,
        1,
    ]  # the second by PSNR; where there is nothing to find tells nothing
    assert table["dAP50"].tolist() == [0.25, 0.25, -0.75]
    assert table["dPSNR"].tolist() == [5, 2, 20]
    assert gains(images.assign(AP50=NAN))["sample"].tolist() == [3, 1, 2, 0]  # unless there is nothing else


class Bright:
    """Finds one box, surely, where the image is bright, and otherwise nothing."""

    names = ("cat",)

    def __call__(self, images: Sequence[Pixels]) -> list[Detections]:
        return [
            Detections(np.full((n, 4), [10.0, 10, 60, 40]), np.full(n, 0.9), np.zeros(n, np.int64))
            for n in (int(image.mean() > 100) for image in images)
        ]


def lift(image: Pixels) -> Pixels:
    """Images get brighter but for the bright ones."""
    return np.where(image > 100, image - 100, image + 100).astype(np.uint8)


@pytest.fixture
def data() -> Dataset:
    def grey(value: int) -> Sample:
        box, label, crowd = np.array([[10.0, 10, 60, 40]]), np.zeros(1, np.int64), np.zeros(1, bool)
        return Sample(f"{value}.png", lambda: np.full((50, 80, 3), value, np.uint8), box, label, crowd)

    return Dataset(tuple(grey(value) for value in (20, 40, 120, 140)), ("cat",))


def run(data: Dataset, folder: Path | None = None) -> Results:
    named = Named(lift, "lift")
    return collect(data, {"raw": raw, "lift": named}, Bright(), cache=Cache(folder) if folder else None)


@pytest.mark.parametrize("kept", [True, False])
def test_best_and_worst(data: Dataset, kept: bool, tmp_path: Path) -> None:
    results = run(data, tmp_path if kept else None)
    (pairs,) = comparisons(results).values()
    assert [pair.title.partition(",")[0] for pair in pairs] == ["20.png", "40.png", "140.png", "120.png"]
    assert pairs[0].caption == "among the best: AP50 1.00 (+1.00)"
    assert pairs[2].caption == "among the worst: AP50 0.00 (-1.00)"
    assert pairs[0].names == ("raw", "lift")
    before, after = (
        np.asarray(Image.open(BytesIO(picture))) for picture in (pairs[0].before, pairs[0].after)
    )
    assert before.shape == (50, 80, 3)
    assert abs(before[45, 70].astype(int) - 20).max() < 12
    assert abs(after[45, 70].astype(int) - 120).max() < 12
    assert before[25, 8:13].max() > 120  # the label is white, on both; nothing was found before
    assert after[25, 8:15, 0].max() > after[25, 8:15, 1].max() + 40  # and after, in the colour of class 0


def test_few_images_are_shown_once(data: Dataset) -> None:
    three = run(Dataset(data.samples[:3], data.classes))
    (pairs,) = comparisons(three).values()
    assert [pair.title.partition(",")[0] for pair in pairs] == ["20.png", "40.png", "120.png"]


def test_without_raw(data: Dataset) -> None:
    assert comparisons(collect(data, {"lift": lift}, Bright())) == {}
