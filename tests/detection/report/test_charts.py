from io import BytesIO
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from detection.report.charts import bars, curves

NAN = float("nan")
TABLE = pd.DataFrame(
    {
        "light": ["mild", "mild", "dark", "dark"],
        "enhancer": ["raw", "gamma", "raw", "gamma"],
        "mAP50": [0.6, 0.5, 0.4, 0.3],
        "low": [NAN, 0.45, NAN, 0.2],
        "high": [NAN, 0.55, NAN, 0.45],
    }
)


def test_a_bar_for_each_row() -> None:
    (axes,) = bars(TABLE, "mAP50", interval=("low", "high")).figure.axes
    drawn = {bar.get_label(): [patch.get_width() for patch in bar] for bar in axes.containers}
    assert drawn == {"raw": [0.6, 0.4], "gamma": [0.5, 0.3]}
    middles = [[patch.get_y() + patch.get_height() / 2 for patch in bar] for bar in axes.containers]
    assert np.round(middles, 6).tolist() == [[-0.2, 0.8], [0.2, 1.2]]  # of a group beside each other
    assert [text.get_text() for text in axes.get_yticklabels()] == ["mild", "dark"]
    lines = [line for whiskers in axes.collections for line in whiskers.get_segments() if len(line)]
    assert [line[:, 0].tolist() for line in lines] == [[0.45, 0.55], [0.2, 0.45]]  # raw has none


def test_axis_starts_at_zero() -> None:
    table = TABLE.assign(mAP50=[0.1, 0.02, 0.1, 0.02], low=[NAN, -0.2, NAN, -0.1])
    (axes,) = bars(table, "mAP50", interval=("low", "high")).figure.axes
    assert axes.get_xlim()[0] == 0
    (axes,) = bars(table, "low").figure.axes
    assert axes.get_xlim()[0] < -0.2


@pytest.mark.filterwarnings("error")
def test_no_bar_without_an_end(tmp_path: Path) -> None:
    bars(TABLE.assign(mAP50=[float("inf"), 0.5, 0.4, 0.3]), "mAP50").save(tmp_path / "a.png")


def test_a_curve_for_each_series() -> None:
    table = pd.DataFrame(
        {"recall": [0, 1, 0, 1], "precision": [1, 0.5, 1, 0.2], "enhancer": ["a", "a", "b", "b"]}
    )
    (axes,) = curves(table, "recall", "precision", labels=["a 0.8", "b 0.6"]).figure.axes
    assert [line.get_label() for line in axes.lines] == ["a 0.8", "b 0.6"]
    assert [line.get_ydata().tolist() for line in axes.lines] == [[1, 0.5], [1, 0.2]]


@pytest.mark.parametrize("rows", [2, 4])
def test_files(rows: int, tmp_path: Path) -> None:
    chart = bars(TABLE[:rows], "mAP50")
    for kind, start in (("png", b"\x89PNG"), ("pdf", b"%PDF")):
        chart.save(tmp_path / f"a.{kind}")
        assert (tmp_path / f"a.{kind}").read_bytes().startswith(start)
    assert len(list(tmp_path.iterdir())) == 2
    picture = Image.open(BytesIO(chart.png())).convert("RGB")
    assert picture.width == 960
    assert picture.getpixel((0, 0)) == (255, 255, 255)
