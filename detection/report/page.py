"""A report as one self-contained HTML page: tables to sort, figures, pairs of pictures under a slider.

>>> import tempfile
>>> from detection.report.page import Comparison, Section, Table, jpeg, write_html
>>> table = pd.DataFrame({"enhancer": ["raw", "glare"], "PSNR": [7.2, 20.7]})
>>> dark, restored = np.full((30, 40, 3), 9, np.uint8), np.full((30, 40, 3), 99, np.uint8)
>>> parts = [Table("All images", table), Comparison("cat.png", jpeg(dark), jpeg(restored), "21.3 dB")]
>>> write_html(Path(tempfile.mkdtemp()) / "report.html", "GLARE on LOL-v1", [Section("Results", parts)])

Pictures lie in the page itself, so the page works from a disk or as an attachment, without network. Its looks, and the
few lines of script that sort and slide, are in ``page.html.jinja`` beside this file.
"""

from __future__ import annotations

import io
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pandas as pd
from PIL import Image

from detection.data.core import Pixels
from detection.report.tables import cell
from glare.files import whole_file

SIDE = 720
"""How many pixels the longer side of an embedded picture has at most."""
SIZE = 80_000
"""How many bytes an embedded picture has at most."""


@dataclass(frozen=True)
class Table:
    """A table that a click on a column's head sorts.

    Attributes:
        caption: what stands above it.
        frame: shown without its index, with as many decimals as `detection.report.tables.cell` gives a column.
    """

    caption: str
    frame: pd.DataFrame


@dataclass(frozen=True)
class Figure:
    """A chart, see `detection.report.charts`.

    Attributes:
        caption: what stands below it.
        png: the picture as the bytes of a PNG file with a white background (black where the page is dark).
    """

    caption: str
    png: bytes


@dataclass(frozen=True)
class Comparison:
    """Two pictures of one size, one over the other, with a slider between them.

    Attributes:
        title: what stands above them, such as the name of the image.
        before: what shows left of the slider, as the bytes of a JPEG file, see `jpeg`.
        after: what shows right of it.
        caption: what stands beside the title.
        names: of the two, written into their corners.

    Raises:
        ValueError: if the two are not of one size.
    """

    title: str
    before: bytes
    after: bytes
    caption: str = ""
    names: tuple[str, str] = ("before", "after")

    def __post_init__(self) -> None:
        before, after = (Image.open(io.BytesIO(picture)).size for picture in (self.before, self.after))
        if before != after:
            raise ValueError(
                f"Expected arguments `before` and `after` to be of one size but got {before} and {after}."
            )

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) in pixels."""
        return Image.open(io.BytesIO(self.before)).size


@dataclass(frozen=True)
class Notes:
    """Notes for the reader, one line each."""

    lines: Sequence[str]


@dataclass(frozen=True)
class Section:
    """A part of the page under a heading; comparisons that follow each other stand side by side."""

    title: str
    parts: Sequence[Table | Figure | Comparison | Notes]


def made_with_section(about: Mapping[str, Any]) -> Section:
    """Return the section on a result's origin: its ``command``, ``data`` and ``versions``."""
    return Section(
        "Made with",
        [
            Notes([about["command"], f"data {about['data']['sha256']}"]),
            Notes([f"{package} {version}" for package, version in about["versions"].items()]),
        ],
    )


def jpeg(picture: Pixels | Image.Image) -> bytes:
    """Return a picture, (H, W, 3) uint8 RGB, as a JPEG file for a page: at most `SIDE` pixels and `SIZE` bytes.

    It is made smaller where it is larger, and coarser where it takes more: a page with dozens of pictures stays at a
    few megabytes.
    """
    image = Image.fromarray(picture) if isinstance(picture, np.ndarray) else picture
    image = image.convert("RGB")
    image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    for quality in (85, 70, 55, 40, 25, 10):
        file = io.BytesIO()
        image.save(file, format="JPEG", quality=quality, optimize=True)
        if file.tell() <= SIZE:
            break
    return file.getvalue()


def write_html(path: str | Path, title: str, sections: Sequence[Section]) -> None:
    """Write the page.

    Args:
        path: the file.
        title: of the page.
        sections: what is on it, from top to bottom.
    """
    environment = jinja2.Environment(
        autoescape=True,
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {"base64": lambda data: b64encode(data).decode(), "cell": cell}
    page = environment.get_template("page.html.jinja").render(
        title=title, sections=[(section.title, _runs(section)) for section in sections]
    )
    with whole_file(Path(path)) as beside:
        beside.write_text(page, encoding="utf-8")


def _runs(section: Section) -> list[tuple[str, list[object]]]:
    """Group the parts of a section: neighbours of one kind together."""
    return [
        (kind, list(parts)) for kind, parts in groupby(section.parts, key=lambda part: type(part).__name__)
    ]
