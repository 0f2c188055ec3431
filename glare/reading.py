"""Search and reading of files: images, which become 8 bits a channel, and texts in UTF-8 or UTF-16."""

from __future__ import annotations

import codecs
import os
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageOps
from numpy.typing import NDArray

from glare.files import IMAGE_SUFFIXES

RAW_SUFFIXES = frozenset(
    {".arw", ".cr2", ".cr3", ".dng", ".nef", ".nrw", ".orf", ".pef", ".raf", ".raw", ".rw2", ".srw"}
)
"""Endings, in lower case, of cameras' raw files, which `develop` reads; Pillow would read a preview in the file."""

_ORIENTATION = 0x0112  # EXIF
# TIFF tags that mark a raw file: the version of Adobe's DNG, or a first picture that is a smaller copy of another.
_DNG_VERSION, _SUBFILE = 50706, 254
_ALONGSIDE = "._"
# What Pillow alone does not read, though the ending promises an image.
_PLUGIN = ": Pillow reads {} with a plugin alone, such as {}; convert it to PNG or JPEG"
_UNREAD = {
    ".heic": _PLUGIN.format("HEIC", "pillow-heif"),
    ".heif": _PLUGIN.format("HEIF", "pillow-heif"),
    ".jxl": _PLUGIN.format("JPEG XL", "pillow-jxl-plugin"),
    ".tif": ": Pillow reads no TIFF of floats in colour",
    ".tiff": ": Pillow reads no TIFF of floats in colour",
}
#: Tolerated distance of a float from [0,1]; a bicubic resize overshoots by less.
_OVERSHOOT = 0.1


@dataclass(frozen=True)
class Header:
    """Properties of an image file that are known before the pixels are decoded.

    Attributes:
        size: (width, height) of the stored pixels; for a TIFF, which Pillow turns on reading, of the upright pixels.
        orientation: EXIF orientation, 1 to 8; 1 is upright.
        depth: the depth that `eight_bits` reduces, such as ``16 bits``; empty where nothing is lost.
        pictures: number of pictures in the file, of which the first is read; a camera's second view is none.
    """

    size: tuple[int, int]
    orientation: int
    depth: str
    pictures: int = 1

    @property
    def losses(self) -> str:
        """What is lost on reading, in words; empty where nothing is."""
        depth = f"{self.depth}, rounded to 8" if self.depth else ""
        pictures = f"{self.pictures} pictures, of which the first is taken" if self.pictures > 1 else ""
        return ", ".join(filter(None, [depth, pictures]))

    @property
    def upright(self) -> tuple[int, int]:
        """Size (width, height) of the upright picture."""
        return self.size[::-1] if self.orientation >= 5 else self.size


def find_files(folder: str | Path, suffixes: Collection[str] = IMAGE_SUFFIXES) -> list[Path]:
    """Return the files below a folder that have one of some endings, sorted; an empty list if there is no folder.

    Links to folders are followed, except links to a folder around the link. Files ``._*``, which macOS leaves beside
    each file on other systems' disks, are skipped: see `left_alongside`.
    """
    wanted = {suffix.lower() for suffix in suffixes}
    return sorted(
        file
        for file in _walk(Path(folder), ())
        if file.suffix.lower() in wanted and not file.name.startswith(_ALONGSIDE)
    )


def left_alongside(folder: str | Path) -> list[str]:
    """Return a line on the files ``._*`` below a folder, or an empty list if there are no such files."""
    found = sorted(file for file in _walk(Path(folder), ()) if file.name.startswith(_ALONGSIDE))
    if not found:
        return []
    return [
        f"passed over {len(found)} files such as {found[0].name}, which macOS leaves beside the real ones"
    ]


def _walk(folder: Path, above: tuple[str, ...]) -> Iterator[Path]:
    """Yield the files below a folder; ``above`` holds the real paths of the folders around it."""
    place = os.path.realpath(folder)
    if place in above or not folder.is_dir():
        return
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if entry.is_dir():
            yield from _walk(folder / entry.name, (*above, place))
        else:
            yield folder / entry.name


def open_image(path: str | Path) -> PIL.Image.Image:
    """Open an image with Pillow, which reads nothing but the header.

    Raises:
        OSError: if the file is missing or no image, or exceeds Pillow's limit against decompression bombs.
    """
    try:
        return PIL.Image.open(path)
    except (ModuleNotFoundError, SyntaxError) as error:
        # Importing ultralytics replaces `PIL.Image.open`: a file that Pillow cannot read then leads to the import of a
        # plugin, which may be missing. A broken PNG ends in a SyntaxError.
        raise _unidentified(path) from error
    except PIL.UnidentifiedImageError as error:
        raise _unidentified(path) from error
    except PIL.Image.DecompressionBombError as error:
        raise OSError(str(error)) from error


def _unidentified(path: str | Path) -> PIL.UnidentifiedImageError:
    """Return the error of a file that Pillow cannot read, with the reason that its ending suggests."""
    why = _UNREAD.get(Path(path).suffix.lower(), "")
    return PIL.UnidentifiedImageError(f"cannot identify image file {str(path)!r}{why}")


def read_header(path: str | Path) -> Header:
    """Read the header of an image file, without its pixels.

    Raises:
        OSError: if the file is missing or no image.
    """
    with open_image(path) as image:
        try:
            return header_of(image)
        except SyntaxError as error:  # a PNG with broken pixels before its EXIF data
            raise OSError(f"cannot decode {path}: {error}") from error


def header_of(image: PIL.Image.Image) -> Header:
    """Return the header of an image that was opened and not loaded."""
    tiles: Any = getattr(image, "tile", None)
    coded = str(tiles[0].args) if tiles else ""
    kinds = {"F": "floats", "I": "whole numbers of 32 bits"}
    depth = "16 bits" if ";16" in coded or image.mode.startswith("I;16") else kinds.get(image.mode, "")
    orientation = int(image.getexif().get(_ORIENTATION, 1)) if _may_be_turned(image) else 1
    pictures = 1 if image.format == "MPO" else int(getattr(image, "n_frames", 1))
    return Header(image.size, orientation if 1 <= orientation <= 8 else 1, depth, pictures)


def _may_be_turned(image: PIL.Image.Image) -> bool:
    """Return whether an image may have EXIF data; a PNG is searched here, as Pillow would decode the pixels first."""
    if image.format == "TIFF":  # Pillow reports the upright size, and turns the pixels on loading
        return False
    if image.format != "PNG" or "exif" in image.info:
        return True
    return _has_chunk(image, b"eXIf")


def lossy_form(image: PIL.Image.Image) -> str:
    """Return what an image that was opened and not loaded was stored as with loss; an empty string if without."""
    packed = image.info.get("compression") if image.format == "TIFF" else ""
    if image.format in ("JPEG", "MPO"):
        return "JPEG"
    if packed in ("jpeg", "tiff_jpeg", "webp"):
        return "TIFF with loss"
    if image.format == "WEBP" and not _has_chunk(image, b"VP8L"):
        return "WebP with loss"
    return ""


def _has_chunk(image: PIL.Image.Image, name: bytes) -> bool:
    """Return whether a PNG or a WebP, opened and not loaded, has a chunk of a name."""
    file: Any = getattr(image, "fp", None)
    if file is None:
        return False
    place = file.tell()
    png = image.format == "PNG"
    try:
        file.seek(8 if png else 12)  # behind the signature
        while len(start := file.read(8)) == 8:
            # A PNG has length, name, content, checksum; a WebP name, length, content, and a byte if that is odd.
            length, found = (start[:4], start[4:]) if png else (start[4:], start[:4])
            if found == name:
                return True
            size = int.from_bytes(length, "big" if png else "little")
            file.seek(size + (4 if png else size % 2), os.SEEK_CUR)
        return False
    finally:
        file.seek(place)


def eight_bits(image: PIL.Image.Image) -> PIL.Image.Image:
    """Return an image in 8 bits a channel: grey of 16 bits or of floats in [0,1] is rounded, others stay.

    Pillow itself drops the lower byte of colour of 16 bits, as OpenCV and ultralytics do.

    Raises:
        ValueError: if the image holds numbers without a known white: whole numbers of 32 bits, floats outside [0,1] by
            more than 0.1, or numbers that are not finite.
    """
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG"):
        return PIL.Image.fromarray(np.rint(np.asarray(image).astype(np.float32) / 257).astype(np.uint8))
    if image.mode == "I":
        raise ValueError("Expected an image of 8 or 16 bits or of floats but got whole numbers of 32 bits.")
    if image.mode == "F":
        values = np.asarray(image)
        if not np.isfinite(values).all():
            raise ValueError("Expected an image of finite numbers but got NaN or infinity.")
        low, high = float(values.min()), float(values.max())
        if low < -_OVERSHOOT or high > 1 + _OVERSHOOT:
            raise ValueError(
                f"Expected an image of floats in [0,1] but got values in [{low:.4g}, {high:.4g}]."
            )
        return PIL.Image.fromarray(np.rint(255 * values.clip(0, 1)).astype(np.uint8))
    return image


def read_image(path: str | Path, *, upright: bool) -> NDArray[np.uint8]:
    """Read an image file, the first picture of several, as (H, W, 3) uint8 RGB; see `eight_bits`.

    Args:
        path: the file.
        upright: whether to turn the pixels as EXIF orientation says.

    Raises:
        OSError: if the file is missing or cannot be decoded.
        ValueError: if the values of the image cannot be converted to 8 bits.
    """
    with open_image(path) as image:
        turned: PIL.Image.Image = image
        try:
            if upright and header_of(image).orientation > 1:
                turned = PIL.ImageOps.exif_transpose(image)
            pixels: NDArray[Any] = np.asarray(eight_bits(turned).convert("RGB"))
        except SyntaxError as error:  # raised by Pillow for a broken chunk of a PNG
            raise OSError(f"cannot decode {path}: {error}") from error
    return pixels


def is_raw(image: PIL.Image.Image) -> bool:
    """Return whether Pillow has opened the preview in a camera's raw file, whatever the file's name."""
    tags: Mapping[int, Any] = getattr(image, "tag_v2", {})
    return _DNG_VERSION in tags or bool(tags.get(_SUBFILE, 0) & 1)


def develop(path: str | Path) -> PIL.Image.Image:
    """Develop a camera's raw file to 8-bit RGB, upright, with the camera's white balance and without brightening.

    Raises:
        ValueError: if rawpy is not installed, or cannot read the file.
    """
    try:
        import rawpy
    except ModuleNotFoundError as error:
        raise ValueError(
            "a camera's raw file, of which only a preview could be read without rawpy: pip install 'glare-torch[raw]'"
        ) from error
    try:
        with rawpy.imread(str(path)) as raw:
            return PIL.Image.fromarray(raw.postprocess(use_camera_wb=True, no_auto_bright=True, output_bps=8))
    except rawpy.LibRawError as error:
        raise ValueError(f"cannot develop it: {error}") from error


def read_text(file: Path, errors: str = "strict") -> str:
    """Return the text of a label file, a list or a description: UTF-8, or UTF-16 after a byte order mark.

    Args:
        file: the file.
        errors: the handling of bytes that are no text, as in `bytes.decode`.

    Raises:
        OSError: if the file cannot be read.
        ValueError: if the file is neither UTF-8 nor UTF-16.
    """
    content = file.read_bytes()
    marked = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        return content.decode("utf-16" if marked else "utf-8-sig", errors)
    except UnicodeDecodeError as error:
        raise ValueError(f"Expected UTF-8 or UTF-16 in {file} but got stuck: {error}") from error
