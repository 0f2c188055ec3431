import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from detection import Detections
from detection.report import (
    Panel,
    cell,
    details,
    overview,
    save_picture,
    side_by_side,
    write_csv,
    write_json,
    write_latex,
    write_markdown,
)


@pytest.fixture
def table() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "light": ["dark", "dark"],
            "enhancer": ["raw", "gamma"],
            "mAP50": [0.123456, 1.0],
            "PSNR": [float("nan"), 21.987],
            "ms": [0.04, 1234.5678],
            "images": [6, 6],
        }
    )


def test_csv(table: pd.DataFrame, tmp_path: Path) -> None:
    write_csv(table, tmp_path / "t.csv")
    assert (tmp_path / "t.csv").read_text().splitlines() == [
        "light,enhancer,mAP50,PSNR,ms,images",
        "dark,raw,0.1235,,0.0,6",
        "dark,gamma,1.0,21.99,1234.6,6",
    ]
    assert list(tmp_path.iterdir()) == [tmp_path / "t.csv"]


def test_markdown(table: pd.DataFrame, tmp_path: Path) -> None:
    write_markdown(table, ["One note.", "Another."], tmp_path / "t.md")
    assert (tmp_path / "t.md").read_text().splitlines() == [
        "| light | enhancer | mAP50 | PSNR | ms | images |",
        "| --- | --- | --- | --- | --- | --- |",
        "| dark | raw | 0.1235 |  | 0.0 | 6 |",
        "| dark | gamma | 1.0000 | 21.99 | 1234.6 | 6 |",
        "",
        "- One note.",
        "- Another.",
    ]


def test_latex(table: pd.DataFrame, tmp_path: Path) -> None:
    write_latex(table.assign(enhancer=["raw", "my_100%"]), ["Two\nlines."], tmp_path / "t.tex")
    assert (tmp_path / "t.tex").read_text().splitlines() == [
        "% Two",
        "% lines.",
        r"\begin{tabular}{llrrrr}",
        r"\toprule",
        r"light & enhancer & mAP50 & PSNR & ms & images \\",
        r"\midrule",
        r"dark & raw & 0.1235 &  & 0.0 & 6 \\",
        r"dark & my\_100\% & 1.0000 & 21.99 & 1234.6 & 6 \\",
        r"\bottomrule",
        r"\end{tabular}",
    ]


def test_json(table: pd.DataFrame, tmp_path: Path) -> None:
    write_json(table, {"command": "python a.py", "versions": {"b": "1"}}, tmp_path / "t.json")
    content = json.loads((tmp_path / "t.json").read_text())
    assert (content["command"], content["versions"]) == ("python a.py", {"b": "1"})
    assert content["rows"][0] == {
        "light": "dark", "enhancer": "raw", "mAP50": 0.123456, "PSNR": None, "ms": 0.04, "images": 6
    }  # fmt: skip


def test_decimals_go_by_the_first_word() -> None:
    assert cell("PSNR_low", 21.987) == cell("PSNR", 21.987) == "21.99"
    assert (cell("AP50 Cat", 0.5), cell("images", 3), cell("x", None)) == ("0.5000", "3", "")


class TestOverview:
    @pytest.fixture
    def wide(self, table: pd.DataFrame) -> pd.DataFrame:
        return table.assign(
            **{
                "dmAP50": [float("nan"), 0.0312],
                "dmAP50_low": [float("nan"), -0.0041],
                "dmAP50_high": [float("nan"), 0.0677],
                "verdict": ["", "within noise"],
                "AR": [0.5, 0.25],
                "AP50 Cat": [0.75, float("nan")],
                "AP Cat": [0.7, float("nan")],
            }
        )

    def test_the_verdict_is_in_words(self, wide: pd.DataFrame) -> None:
        short = overview(wide)
        columns = ["light", "enhancer", "mAP50", "against raw", "PSNR", "ms", "images"]
        assert list(short.columns) == columns
        assert short["against raw"].tolist() == ["", "+0.031 [-0.004, +0.068] within noise"]

    def test_an_unknown_interval_is_left_out(self, wide: pd.DataFrame) -> None:
        unknown = wide.assign(
            dmAP50_low=float("nan"), dmAP50_high=float("nan"), verdict=["", "too few images"]
        )
        assert overview(unknown)["against raw"][1] == "+0.031 too few images"

    def test_quality_needs_a_reference(self, wide: pd.DataFrame) -> None:
        assert "PSNR" not in overview(wide.assign(PSNR=float("nan")))

    def test_without_raw(self, wide: pd.DataFrame) -> None:
        assert "against raw" not in overview(wide.assign(verdict=""))

    def test_details(self, wide: pd.DataFrame, tmp_path: Path) -> None:
        assert list(details(wide).columns) == ["light", "enhancer", "AR", "AP50 Cat"]
        write_markdown(overview(wide), ["One."], tmp_path / "t.md", more=details(wide))
        assert (tmp_path / "t.md").read_text().splitlines()[4:] == [
            "",
            "- One.",
            "",
            "| light | enhancer | AR | AP50 Cat |",
            "| --- | --- | --- | --- |",
            "| dark | raw | 0.5000 | 0.7500 |",
            "| dark | gamma | 0.2500 |  |",
        ]


class TestPicture:
    image = np.full((100, 200, 3), 50, np.uint8)

    def boxes(self, score: float) -> Detections:
        return Detections(np.array([[20.0, 40, 120, 80]]), np.array([score]), np.array([1]))

    def test_boxes_lie_where_they_belong(self) -> None:
        rows = [[Panel("a", self.image, self.boxes(0.9)), Panel("b", self.image, self.boxes(0.1))]]
        pixels = np.asarray(side_by_side(rows, ["cat", "dog"], width=204))  # at the image's own size
        assert pixels.shape == (100 + 22 + 2, 2 * 204, 3)
        green = (pixels == [60, 180, 75]).all(axis=-1)  # the colour of class 1
        y, x = np.nonzero(green)
        assert abs(x.min() - 22) <= 1
        assert abs(x.max() - 122) <= 1
        assert abs(y.max() - 102) <= 1
        assert not green[:, 204:].any()  # a score of 0.1 is not drawn

    def test_rows_are_stacked(self, tmp_path: Path) -> None:
        panel = Panel("a", self.image, self.boxes(0.9))
        sheet = side_by_side([[panel, panel], [panel, panel], [panel, panel]], ["cat", "dog"], width=104)
        assert sheet.size == (208, 3 * (50 + 22 + 2))
        save_picture(sheet, tmp_path / "sheet.jpg")
        assert list(tmp_path.iterdir()) == [tmp_path / "sheet.jpg"]
