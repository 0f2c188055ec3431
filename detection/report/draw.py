"""Pictures with the boxes drawn in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from detection.data.core import Detections, Pixels
from glare.files import whole_file

DRAWN_SCORE = 0.25
"""Boxes below this score are left out of pictures."""

_COLOURS = (
    *("#e6194b", "#3cb44b", "#ffe119", "#4363d8", "#f58231", "#b04fd0"),
    *("#46f0f0", "#f032e6", "#bcf60c", "#fabebe", "#00a0a0", "#d2a679"),
)


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
    """Draw detections into an image.

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
