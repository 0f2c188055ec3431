"""Cache of enhanced images and detections, by the hash of all that they depend on.

The name of a file is the hash of the input's pixels and of the program that they went through, so a file cannot be out
of date: other pixels, other weights or another program make another name. Files are written beside and renamed, so
that a run may be killed at any time and several may share a folder.
"""

from __future__ import annotations

import hashlib
import json
import struct
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from detection.data.core import Detections, Pixels
from detection.timing import Cost
from glare.files import sha256, whole_file
from glare.reading import open_image

_HEADER = 33
"""Bytes of a PNG before its second part: the signature and the size of the image."""


def fingerprint(*parts: str | bytes | Path) -> str:
    """Return the SHA-256 of texts, bytes, files and folders (content, not names) as 64 hexadecimal digits.

    Raises:
        OSError: if a file cannot be read.
    """
    total = hashlib.sha256()
    for part in parts:
        if isinstance(part, Path):
            for path in sorted(part.rglob("*")) if part.is_dir() else [part]:
                if not path.is_dir():
                    total.update(bytes.fromhex(sha256(path)))
        else:
            total.update(hashlib.sha256(part.encode() if isinstance(part, str) else part).digest())
    return total.hexdigest()


@dataclass(frozen=True)
class Cache:
    """A folder of enhanced images (PNG) and detections (NumPy's npz, written and read without pickle).

    Args:
        folder: the place of the files; it is made with the first of them.

    >>> import tempfile
    >>> cache, dark = Cache(Path(tempfile.mkdtemp())), np.zeros((8, 8, 3), np.uint8)
    >>> pixels, cost, file = cache.enhanced(dark, "brighter", lambda: (dark + 9, Cost(ms=1.0, mb=2.0)))
    >>> again = cache.enhanced(dark, "brighter", lambda: 1 / 0)  # is not called
    >>> again[0].max(), again[1], again[2] == file
    (np.uint8(9), Cost(ms=1.0, mb=2.0), True)
    """

    folder: Path

    def enhanced(
        self,
        image: Pixels,
        identity: str,
        make: Callable[[], tuple[Pixels, Cost]],
        unwritten: dict[Path, tuple[Pixels, Cost]] | None = None,
    ) -> tuple[Pixels, Cost, Path]:
        """Return the result of `make` on an image, now or at an earlier time, its cost then, and the file.

        Args:
            image: (H, W, 3) uint8 RGB.
            identity: names everything else that the result depends on.
            make: called where there is no such file, or a damaged one; returns (H, W, 3) uint8 RGB.
            unwritten: results still to be written, for `write_png` when there is time; None writes at once.
        """
        path = self._path("enhanced", image, identity, ".png")
        if unwritten and path in unwritten:
            return *unwritten[path], path
        try:
            with open_image(path) as stored:
                # np.asarray decodes the pixels; the text before them holds the cost.
                return np.asarray(stored), Cost(**json.loads(stored.info["cost"])), path
        except (OSError, KeyError, TypeError, ValueError, SyntaxError):
            pixels, cost = make()
        if unwritten is None:
            write_png(path, pixels, cost)
        else:
            unwritten[path] = pixels, cost
        return pixels, cost, path

    def detections(
        self, image: Pixels, identity: str, make: Callable[[], tuple[Detections, Cost]]
    ) -> tuple[Detections, Cost]:
        """Return the detections of `make` in an image, now or from earlier, and their cost then; see `enhanced`."""
        path = self._path("detections", image, identity, ".npz")
        try:
            with np.load(path, allow_pickle=False) as stored:
                found = Detections(stored["boxes"], stored["scores"], stored["labels"])
                return found, Cost(*stored["cost"].tolist())
        except (OSError, EOFError, KeyError, TypeError, ValueError, zipfile.BadZipFile):
            found, cost = make()
        with whole_file(path) as beside, beside.open("wb") as file:
            np.savez(
                file,
                boxes=found.boxes.astype(np.float64),
                scores=found.scores.astype(np.float64),
                labels=found.labels.astype(np.int64),
                cost=[cost.ms, cost.mb],
            )
        return found, cost

    def _path(self, kind: str, image: Pixels, identity: str, suffix: str) -> Path:
        name = fingerprint(kind, identity, str(image.shape), image.tobytes())
        return self.folder / kind / f"{name}{suffix}"


def write_png(path: Path, pixels: Pixels, cost: Cost) -> None:
    """Write (H, W, 3) uint8 RGB as PNG, with the cost as a text in it."""
    import cv2

    text = b"tEXtcost\0" + json.dumps(asdict(cost)).encode("latin-1")
    chunk = struct.pack(">I", len(text) - 4) + text + struct.pack(">I", zlib.crc32(text))
    with whole_file(path) as beside:
        # OpenCV takes 40 % of Pillow's time, which was a tenth of a run of cheap enhancers, but it writes no text.
        png = cv2.imencode(".png", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))[1].tobytes()
        beside.write_bytes(png[:_HEADER] + chunk + png[_HEADER:])
