"""The tables as text, as a plot, and within a Markdown file."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from matplotlib.figure import Figure

from glare.files import whole_file

DECIMALS = {
    "ratio": 2,
    "share": 2,
    "equal codes": 4,
    "images/s": 2,
    "latent's relative error": 5,
    "megapixels": 2,
    "gain %": 1,
    "predicted %": 1,
    "% of time": 1,
    "overhead %": 1,
    "GB not moved": 2,
    "enhancer per detector": 1,
    "GFLOP saved": 1,
    "GFLOP": 1,
    "PSNR, lowest": 1,
    "PSNR, mean": 1,
    "network alone, s": 1,
    "glare enhance, s": 1,
}


def told(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table as text, with suitable decimals for each column and NaN as an empty cell."""
    result = pd.DataFrame(index=table.index)
    for column in table:
        name = str(column)
        result[name] = [
            ("" if math.isnan(value) else f"{value:.{DECIMALS.get(name, 0)}f}")
            if isinstance(value, float)
            else str(value)
            for value in table[column]
        ]
    empty = [column for column in result if (result[column] == "").all()]
    return result.drop(columns=empty)


def described(about: Mapping[str, Any], typed: str, seconds: float) -> str:
    """Describe the machine and the run in words."""
    bf16 = (
        ""
        if about["native_bf16"]
        else ": no native bf16, its products of matrices are no faster than float32"
    )
    return (
        f"`{typed}` in {seconds / 60:.0f} minutes on {about['name']}, {about['threads']} threads, "
        f"{about['memory_gb']:.0f} GB, torch {torch.__version__}. "
        f"Products of matrices: {about['float32_gflops']:.0f} GFLOP/s in float32, "
        f"{about['bf16_gflops']:.0f} in bf16{bf16}. Copies: {about['gb_per_s']:.1f} GB/s."
    )


def insert(doc: Path, blocks: Mapping[str, str]) -> None:
    """Replace what stands between ``<!-- speed: NAME -->`` and ``<!-- speed end -->``; other names stay."""
    text = doc.read_text(encoding="utf-8")
    for name, block in blocks.items():
        before, mark, rest = text.partition(f"<!-- speed: {name} -->\n")
        if mark:
            _, end, after = rest.partition("<!-- speed end -->")
            text = f"{before}{mark}{block}\n{end}{after}"
    doc.write_text(text, encoding="utf-8")


def plot(table: pd.DataFrame, path: Path) -> None:
    """Plot time and memory of each form over size, and a line in proportion to the first one's at about a megapixel."""
    figure = Figure(figsize=(6.4, 3.2), layout="constrained")
    seconds, memory = figure.subplots(1, 2)
    for form, rows in table.groupby("form", sort=False):
        seconds.plot(rows["megapixels"], rows["ms"] / 1000, "o-", label=form)
        memory.plot(rows["megapixels"], rows["MB"] / 1000, "o-", label=form)
    first = table[table["form"] == table["form"].iloc[0]]
    one, x = first.iloc[(first["megapixels"] - 1).abs().argmin()], first["megapixels"]
    seconds.plot(x, one["ms per megapixel"] * x / 1000, "--", color="grey", label="in proportion")
    seconds.legend(frameon=False)
    for axes, label in ((seconds, "seconds"), (memory, "peak memory, GB")):
        axes.set(xlabel="megapixels", ylabel=label, xlim=(0, None), ylim=(0, None))
        axes.grid(alpha=0.3)
    with whole_file(path) as beside:
        figure.savefig(beside, format="svg", metadata={"Date": None})
