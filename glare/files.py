"""Files: the endings of images, writing without leaving a half file, and the digest."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

WRITTEN_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
"""Endings, in lower case, of the images that are written too."""
IMAGE_SUFFIXES = WRITTEN_SUFFIXES | {
    *(".avif", ".heic", ".heif", ".j2k", ".jfif", ".jp2", ".jpe", ".jxl", ".mpo"),
    *(".pbm", ".pgm", ".pnm", ".ppm"),
}
"""Endings, in lower case, of the files that are taken for images. HEIC and JPEG XL, for which Pillow needs a plugin,
end as faults and are not passed over in silence."""


@contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """Give a path beside ``path`` to write to; at the end the written file takes the name ``path``.

    A run that is stopped leaves no half file under a name that a later run trusts. Missing folders are made.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> with whole_file(folder / "a.txt") as beside:
    ...     _ = beside.write_text("whole")
    ...     (folder / "a.txt").exists()
    False
    >>> [file.name for file in folder.iterdir()]
    ['a.txt']
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield beside
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def sha256(path: str | Path) -> str:
    """Return the SHA-256 of a file's content as 64 hexadecimal digits.

    Raises:
        OSError: if the file cannot be read.
    """
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
