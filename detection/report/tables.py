"""Tables as CSV, Markdown, LaTeX and JSON; the page is in `detection.report.page`."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pandas.api.types import is_numeric_dtype

from detection.metrics.image_quality import METRICS
from glare.files import whole_file

# By the column's name, or the first word of it, so that PSNR_low has as many decimals as PSNR.
_DECIMALS = {
    "PSNR": 2,
    "NIQE": 2,
    "Mparams": 2,
    "GFLOP": 1,
    "ms": 1,
    "detector_ms": 1,
    "MB": 0,
    "detector_MB": 0,
}
_IN_LATEX = str.maketrans(
    {mark: f"\\{mark}" for mark in "&%$#_{}"}
    | {"~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "\\": r"\textbackslash{}"}
)
_KEYS = ("detector", "light", "place", "enhancer")


def rounded(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table as it is printed and written, with suitable decimals for each column, mostly four."""
    return table.round({column: _decimals(str(column)) for column in table.select_dtypes("float")})


def cell(column: str, value: object) -> str:
    """Return a value as a table shows it: with the decimals of its column, and empty for NaN."""
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.{_decimals(column)}f}"
    return "" if value is None else str(value)


def _decimals(column: str) -> int:
    return _DECIMALS.get(column, _DECIMALS.get(re.split(r"[\s_]", column)[0], 4))


def overview(table: pd.DataFrame) -> pd.DataFrame:
    """Return the columns of `evaluate` that tell whether an enhancer helps, and at what price.

    The difference from ``raw``, its 95 % interval and the verdict become one column of text, ``against raw``.
    Metrics that judged no image, as those without references cannot, are left out.
    """
    against = [_against_raw(row) for row in table.to_dict("records")]
    wanted = [*_KEYS, "mAP50", "against raw", "mAP50-95", "VOC_AP50"]
    wanted += [
        name
        for name in ("PSNR", "SSIM", "LPIPS", METRICS["NIQE"].name)
        if name in table and table[name].notna().any()
    ]
    wanted += ["ms", "detector_ms", "MB", "images", "boxes"]
    if any(against):
        table = table.assign(**{"against raw": against})
    return table[[column for column in wanted if column in table]]


def with_intervals(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table with each interval beside its mean in one column of text."""
    decimals = {"PSNR": 2, "NIQE": 2}
    columns: dict[str, object] = {}
    for column in table:
        name = str(column)
        if name.endswith(("_low", "_high")):
            continue
        columns[name] = table[name]
        if f"{name}_low" in table:
            digits = decimals.get(name.split()[0], 3)
            rows = table[[name, f"{name}_low", f"{name}_high"]].to_numpy(dtype=np.float64)
            columns[name] = [_with_interval(mean, low, high, digits) for mean, low, high in rows.tolist()]
    return pd.DataFrame(columns)


def _with_interval(value: float, low: float, high: float, digits: int) -> str:
    if np.isnan(value):
        return ""
    return f"{value:.{digits}f}" + ("" if np.isnan(low) else f" [{low:.{digits}f}, {high:.{digits}f}]")


def details(table: pd.DataFrame) -> pd.DataFrame:
    """Return the remaining columns of `evaluate`: recall, sizes and AP50 of each class."""
    wanted = [*_KEYS, "AR", "AP_small", "AP_medium", "AP_large"]
    wanted += [str(column) for column in table if str(column).startswith("AP50 ")]
    return table[[column for column in wanted if column in table]]


def _against_raw(row: Mapping[Hashable, Any]) -> str:
    if not row.get("verdict"):
        return ""
    low, high = row["dmAP50_low"], row["dmAP50_high"]
    interval = "" if math.isnan(low) else f" [{low:+.3f}, {high:+.3f}]"
    return f"{row['dmAP50']:+.3f}{interval} {row['verdict']}"


def write_csv(table: pd.DataFrame, path: str | Path) -> None:
    """Write a table of `evaluate` as CSV, plain numbers, NaN as an empty field."""
    _write(rounded(table).to_csv(index=False), Path(path))


def write_markdown(
    table: pd.DataFrame, notes: Sequence[str], path: str | Path, more: pd.DataFrame | None = None
) -> None:
    """Write a table as Markdown, with the notes under it as a list, and `more` of it under those."""
    text = markdown(table) + "\n\n" + "".join(f"- {note}\n" for note in notes)
    _write(text if more is None else f"{text}\n{markdown(more)}\n", Path(path))


def markdown(table: pd.DataFrame) -> str:
    """Return a table as Markdown."""
    columns = list(table.columns)
    lines = [columns, ["---"] * len(columns)]
    lines += [[cell(column, row[column]) for column in columns] for row in table.to_dict("records")]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def write_latex(table: pd.DataFrame, notes: Sequence[str], path: str | Path) -> None:
    r"""Write a table as LaTeX, a ``tabular`` with the rules of booktabs, the notes above it as comments.

    The file is for ``\input`` between ``\begin{table}`` and ``\end{table}``, after ``\usepackage{booktabs}``.
    """
    texts = {
        _escaped(str(column)): [_escaped(cell(str(column), value)) for value in values]
        for column, values in table.items()
    }
    sides = "".join("r" if is_numeric_dtype(kind) else "l" for kind in table.dtypes)
    shown = pd.DataFrame(texts).style.hide(axis="index").to_latex(hrules=True, column_format=sides)
    comments = "".join(f"% {line}\n" for note in notes for line in note.splitlines())
    _write(comments + shown, Path(path))


def _escaped(text: str) -> str:
    return text.translate(_IN_LATEX)


def write_json(table: pd.DataFrame, about: Mapping[str, object], path: str | Path) -> None:
    """Write a table as JSON: `about`, plain values of any depth, and under ``rows`` an object for each row.

    The numbers are not rounded; NaN is null.
    """
    rows = json.loads(table.to_json(orient="records", double_precision=15))
    _write(
        json.dumps({**about, "rows": rows}, indent=1, ensure_ascii=False, allow_nan=False) + "\n", Path(path)
    )


def _write(text: str, path: Path) -> None:
    with whole_file(path) as beside:
        beside.write_text(text, encoding="utf-8")
