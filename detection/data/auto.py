"""One reader for every kind of labelled set."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from detection.data.classes import EXDARK_CLASSES
from detection.data.coco import read_coco
from detection.data.core import Dataset
from detection.data.dark_face import read_dark_face
from detection.data.exdark import ANNOTATIONS, LIST, ExDark
from detection.data.yolo import read_yolo


def read_dataset(
    path: str | Path,
    *,
    images: str | Path | None = None,
    split: str | Path | None = None,
    classes: Sequence[str] = EXDARK_CLASSES,
) -> Dataset:
    """Read a labelled set of whatever kind it is.

    Args:
        path: the folder of `ExDark`, of DARK FACE (`read_dark_face`) or in YOLO's layout (`read_yolo`) or its
            ``data.yaml``, a COCO JSON file (`read_coco`), or a folder with such a file called ``annotations.json``.
        images: the folder with the images of a COCO JSON file.
        split: of ExDark, ``test`` if there is none given; or of a ``data.yaml``, see `read_yolo`.
        classes: the classes to keep; DARK FACE always has the one it has.

    Raises:
        FileNotFoundError: if there is none of these at `path`.
        ValueError: if `split` is given and the set has none.

    >>> import tempfile
    >>> from detection import sample_set, write_yolo
    >>> folder = Path(tempfile.mkdtemp())
    >>> _ = write_yolo(sample_set(), folder)
    >>> len(read_dataset(folder))
    6
    """
    path = Path(path)
    # A part of ExDark is enough to know it: ExDark itself says best what is missing.
    if any((path / part).exists() for part in (LIST, ANNOTATIONS)):
        return ExDark(path, split or "test", classes=classes)
    dark_face = (path / "image").is_dir() and (path / "label").is_dir()
    json = path / "annotations.json" if (path / "annotations.json").is_file() else path
    if not dark_face and (path.suffix.lower() in (".yaml", ".yml") if json.is_file() else path.is_dir()):
        return read_yolo(path, None if split is None else str(split), classes=classes)
    if split is not None and path.exists():
        raise ValueError(
            f"Expected argument `split` with ExDark or YOLO's layout alone but {path} is another set."
        )
    if dark_face:
        return read_dark_face(path)
    if json.is_file():
        return read_coco(json, images, classes=classes)
    raise FileNotFoundError(
        f"Expected a folder of ExDark, DARK FACE or YOLO's layout, a data.yaml or a COCO JSON file at {path} but there "
        "is neither."
    )
