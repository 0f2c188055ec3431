"""Tables as CSV, Markdown, LaTeX and JSON, and pictures with the boxes drawn in; the page is in `detection.html`."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pandas.api.types import is_numeric_dtype
from PIL import Image, ImageDraw, ImageFont

from detection.boxes import Detections
from detection.dataset import Pixels, whole_file

DRAWN_SCORE = 0.25
"""Boxes below this score are left out of pictures."""

# By the column's name, or the first word of it, so that PSNR_low has as many as PSNR.
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
_COLOURS = (
    *("#e6194b", "#3cb44b", "#ffe119", "#4363d8", "#f58231", "#b04fd0"),
    *("#46f0f0", "#f032e6", "#bcf60c", "#fabebe", "#00a0a0", "#d2a679"),
)


def rounded(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table as it is printed and written: as many decimals as a column deserves, mostly four."""
    return table.round({column: _decimals(str(column)) for column in table.select_dtypes("float")})


def cell(column: str, value: object) -> str:
    """Return a value as a table shows it: with the decimals of its column, and nothing where there is none."""
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.{_decimals(column)}f}"
    return "" if value is None else str(value)


def _decimals(column: str) -> int:
    return _DECIMALS.get(column, _DECIMALS.get(re.split(r"[\s_]", column)[0], 4))


def overview(table: pd.DataFrame) -> pd.DataFrame:
    """Return the columns of `evaluate` that answer the question: is it better than nothing, and at what price.

    The difference from ``raw``, its 95 % interval and the verdict become one column of text, ``against raw``. PSNR and
    SSIM are left out where no image has a reference.
    """
    against = [_against_raw(row) for row in table.to_dict("records")]
    wanted = [*_KEYS, "mAP50", "against raw", "mAP50-95", "VOC_AP50", "PSNR", "SSIM", "LPIPS"]
    wanted += ["ms", "detector_ms", "MB", "images", "boxes"]
    if any(against):
        table = table.assign(**{"against raw": against})
    if not table["PSNR"].notna().any():
        wanted = [column for column in wanted if column not in ("PSNR", "SSIM")]
    return table[[column for column in wanted if column in table]]


def details(table: pd.DataFrame) -> pd.DataFrame:
    """Return the rest of `evaluate` that is read more than reckoned with: recall, sizes and AP50 of each class."""
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
    """Write a table of `evaluate` as CSV, plain numbers; a value there is none of stays empty."""
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

    It is for ``\input`` between ``\begin{table}`` and ``\end{table}``, after ``\usepackage{booktabs}``.
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

    The numbers are not rounded; a value there is none of is null.
    """
    rows = json.loads(table.to_json(orient="records", double_precision=15))
    _write(
        json.dumps({**about, "rows": rows}, indent=1, ensure_ascii=False, allow_nan=False) + "\n", Path(path)
    )


def _write(text: str, path: Path) -> None:
    with whole_file(path) as beside:
        beside.write_text(text, encoding="utf-8")


@dataclass(frozen=True)
class Panel:
    """One image of a side-by-side picture.

    Attributes:
        title: what stands above it.
        image: (H, W, 3) uint8 RGB.
        found: the boxes to draw, in pixels of the image; those of a score below `DRAWN_SCORE` are left out.
        scores: whether to write the scores beside the names.
    """

    title: str
    image: Pixels
    found: Detections
    scores: bool = True


def side_by_side(rows: Sequence[Sequence[Panel]], classes: Sequence[str], width: int = 400) -> Image.Image:
    """Draw rows of panels, each `width` pixels wide, with a title and boxes.

    Args:
        rows: rows of panels; all images of one row measure the same.
        classes: the names that the labels number.
        width: of one panel, in pixels.
    """
    drawn = [[_draw(panel, classes, width) for panel in row] for row in rows]
    return stacked([_pasted(row, (1, 0)) for row in drawn])


def stacked(pictures: Sequence[Image.Image]) -> Image.Image:
    """Put pictures one below the other."""
    return _pasted(pictures, (0, 1))


def _pasted(pictures: Sequence[Image.Image], way: tuple[int, int]) -> Image.Image:
    sizes = np.array([picture.size for picture in pictures])
    size = np.where(way, sizes.sum(axis=0), sizes.max(axis=0))
    sheet = Image.new("RGB", (int(size[0]), int(size[1])), "white")
    for picture, place in zip(pictures, (sizes.cumsum(axis=0) - sizes) * way, strict=True):
        sheet.paste(picture, (int(place[0]), int(place[1])))
    return sheet


def boxed(
    image: Pixels,
    found: Detections,
    classes: Sequence[str],
    scale: float = 1.0,
    *,
    letters: int = 13,
    scores: bool = True,
    labelled: NDArray[np.float64] | None = None,
) -> Image.Image:
    """Draw what was found into an image.

    Args:
        image: (H, W, 3) uint8 RGB.
        found: the boxes, in pixels of the image; those of a score below `DRAWN_SCORE` are left out.
        classes: the names that the labels number.
        scale: by how much the picture is to be larger than the image; lines and letters do not grow with it.
        letters: their height in pixels of the picture; lines are a sixth of it.
        scores: whether to write the scores beside the names.
        labelled: (N, 4) boxes to draw under those, in white.
    """
    import cv2

    size = [max(1, round(side * scale)) for side in image.shape[1::-1]]
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    picture = Image.fromarray(cv2.resize(image, (size[0], size[1]), interpolation=how))
    pen, font, line = ImageDraw.Draw(picture), ImageFont.load_default(letters), max(1, letters // 6)
    for box in () if labelled is None else labelled:
        pen.rectangle(_corners(box * scale), outline="white", width=max(1, line // 2))
    for box, score, label in zip(found.boxes, found.scores, found.labels, strict=True):
        if score < DRAWN_SCORE:
            continue
        colour = _COLOURS[label % len(_COLOURS)]
        x1, y1, x2, y2 = _corners(box * scale)
        pen.rectangle((x1, y1, x2, y2), outline=colour, width=line)
        text = f"{classes[label]} {score:.2f}" if scores else classes[label]
        above = y1 - letters - 1
        place = (x1 + 2, above if above > 0 else y1 + 2)
        pen.rectangle(pen.textbbox(place, text, font=font), fill=colour)
        pen.text(place, text, fill="black", font=font)
    return picture


def _corners(box: NDArray[np.float64]) -> tuple[float, float, float, float]:
    x1, y1, x2, y2 = box
    return x1, y1, max(x1, x2), max(y1, y2)


def _draw(panel: Panel, classes: Sequence[str], width: int) -> Image.Image:
    border, header = 2, 22
    scale = (width - 2 * border) / panel.image.shape[1]
    drawn = boxed(panel.image, panel.found, classes, scale, scores=panel.scores)
    picture = Image.new("RGB", (width, drawn.height + header + border), "white")
    picture.paste(drawn, (border, header))
    ImageDraw.Draw(picture).text((border, 3), panel.title, fill="black", font=ImageFont.load_default(13))
    return picture


def save_picture(picture: Image.Image, path: str | Path) -> None:
    """Write a picture as JPEG."""
    with whole_file(Path(path)) as beside:
        picture.save(beside, format="JPEG", quality=90)
