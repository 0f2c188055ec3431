import json
from pathlib import Path

import pandas as pd
import pytest

from detection.report.tables import (
    cell,
    details,
    overview,
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
