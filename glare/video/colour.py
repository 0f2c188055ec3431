"""Colour of video frames: depth, matrix and range, by ITU-T H.273, as players take them."""

from __future__ import annotations

from typing import Any

# Matrices by ITU-T H.273, with the number that swscale gives each; 2 is "unknown".
_MATRICES = {1: 1, 4: 4, 5: 5, 6: 5, 7: 7, 9: 9}
_UNKNOWN, _RGB = 2, 0
LIMITED, FULL = 1, 2  # as FFmpeg numbers ranges; 0 is "unknown"


def bits_of(frame: Any) -> int:
    """Return how many bits of a colour are kept: 8 or 10."""
    return 10 if max(component.bits for component in frame.format.components) > 8 else 8


def matrix_of(frame: Any) -> int:
    """Return swscale's number of the matrix of a frame's colours; untagged frames have the matrix of their size."""
    if frame.format.is_rgb or frame.format.has_palette:
        return 1
    if frame.colorspace in (_UNKNOWN, _RGB):
        return matrix_of_size(frame.width, frame.height)
    try:
        return _MATRICES[frame.colorspace]
    except KeyError:
        raise ValueError(
            f"its colours are coded by matrix {frame.colorspace} of ITU-T H.273, which FFmpeg's scaler does not know"
        ) from None


def matrix_of_size(width: int, height: int) -> int:
    """Return the matrix of untagged colours, as players assume: BT.709 of high definition, BT.601 of less."""
    return 1 if height >= 720 or width >= 1280 else 5


def range_of(frame: Any) -> int:
    """Return FFmpeg's number of the range of a frame's values; untagged YUV is limited."""
    full = frame.color_range == FULL or frame.format.name.startswith("yuvj")
    return FULL if full or frame.format.is_rgb or frame.format.has_palette else LIMITED


def exact_scaling() -> int:
    """Return swscale's flags for conversions that round, and that interpolate colour of half the resolution."""
    from av.video.reformatter import Interpolation

    return int(
        Interpolation.BILINEAR
        | Interpolation.ACCURATE_RND
        | Interpolation.FULL_CHR_H_INT
        | Interpolation.FULL_CHR_H_INP
    )
