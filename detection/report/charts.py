"""Charts for a paper and for a page, drawn by matplotlib from tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from glare.files import whole_file

# Wide enough for a column of a paper, and narrow enough that its letters can be read on a phone.
_WIDTH = 6.4
_COLOURS = ("#7f7f7f", "#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#8c564b", "#e377c2", "#17becf")


@dataclass(frozen=True)
class Chart:
    """A drawn chart."""

    figure: Figure

    def png(self) -> bytes:
        """Return the chart as the bytes of a PNG file with a white background."""
        file = BytesIO()
        self.figure.savefig(file, format="png", dpi=150)
        return file.getvalue()

    def save(self, path: str | Path) -> None:
        """Write the chart as a file of the kind that the ending of `path` names, such as PNG or PDF."""
        path = Path(path)
        with whole_file(path) as beside:
            self.figure.savefig(beside, format=path.suffix.removeprefix("."), dpi=200)


def bars(
    table: pd.DataFrame,
    value: str,
    *,
    group: str = "light",
    series: str = "enhancer",
    interval: tuple[str, str] | None = None,
    label: str = "",
) -> Chart:
    """Draw a bar for each row of a table, in groups, from top to bottom.

    Args:
        table: one row per bar.
        value: the column with the length of the bars.
        group: the column by which bars stand together.
        series: the column that tells the bars of a group apart; one colour each.
        interval: the columns with the ends of a whisker on each bar; none where they are NaN.
        label: of the axis, if it is not to be `value`.
    """
    groups, names = (list(dict.fromkeys(table[column])) for column in (group, series))
    height = 0.8 / len(names)
    figure, axes = _new(1.2 + len(groups) * max(0.45, 0.17 * len(names)))
    for i, name in enumerate(names):
        rows = table[table[series] == name]
        at = np.array([groups.index(of) for of in rows[group]]) + (i - (len(names) - 1) / 2) * height
        lengths = rows[value].where(np.isfinite(rows[value]))  # the PSNR of equal images is infinite
        axes.barh(at, lengths, height, label=name, color=_colour(i))
        if interval is not None:
            low, high = (rows[column].to_numpy(dtype=float) for column in interval)
            axes.hlines(at, low, high, color="black", linewidth=1)
    if table[value].min() >= 0:  # also where a whisker goes beyond
        axes.set_xlim(left=0)
    axes.set_yticks(range(len(groups)), groups)
    axes.invert_yaxis()
    axes.grid(axis="x", alpha=0.3)
    axes.set_axisbelow(True)
    axes.set_xlabel(label or value)
    _legend(figure, axes)
    return Chart(figure)


def curves(
    table: pd.DataFrame, x: str, y: str, *, series: str = "enhancer", labels: Sequence[str] = ()
) -> Chart:
    """Draw a curve for each series of a table, both axes from 0 to 1.

    Args:
        table: one row per point.
        x: the column of one axis.
        y: the column of the other.
        series: the column that tells the curves apart.
        labels: of the curves, if not their names.
    """
    figure, axes = _new(4.6)
    names = list(dict.fromkeys(table[series]))
    for i, (name, label) in enumerate(zip(names, labels or names, strict=True)):
        rows = table[table[series] == name]
        axes.plot(rows[x], rows[y], label=label, color=_colour(i), linewidth=1.6)
    axes.set(xlabel=x, ylabel=y, xlim=(0, 1), ylim=(0, 1.02))
    axes.grid(alpha=0.3)
    _legend(figure, axes)
    return Chart(figure)


def _new(height: float) -> tuple[Figure, Axes]:
    # pyplot would keep every figure and may need a screen.
    figure = Figure(figsize=(_WIDTH, height), layout="constrained")
    return figure, figure.add_subplot()


def _colour(number: int) -> str:
    return _COLOURS[number % len(_COLOURS)]


def _legend(figure: Figure, axes: Axes) -> None:
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=3, frameon=False)
