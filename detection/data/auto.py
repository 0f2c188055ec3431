"""One reader for every kind of labelled set."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

from detection.data.classes import EXDARK_CLASSES
from detection.data.coco import read_coco
from detection.data.core import Dataset
from detection.data.dark_face import read_dark_face
from detection.data.exdark import ANNOTATIONS, LIST, ExDark
from detection.data.voc import LISTS, read_voc
from detection.data.yolo import read_yolo
from glare.reading import find_files

LAYOUTS = (
    f"ExDark ({LIST}, {ANNOTATIONS}/)",
    "DARK FACE (image/, label/)",
    "YOLO (images/ and labels/ with .txt, a data.yaml, Darknet's obj.data)",
    "COCO (a JSON file, annotations.json, annotations/*.json, labels.json, _annotations.coco.json)",
    "PASCAL VOC (Annotations/*.xml, or XML files beside the images)",
)
"""Descriptions of the layouts that `read_dataset` knows."""

_FOLDERS = {"val": ("valid", "val", "validation"), "train": ("train",), "test": ("test",)}
"""Names of the folders of each split; the first name is Roboflow's."""

_NO_SPLIT = (
    "Expected argument `split` with ExDark or YOLO's layout alone, or with folders or lists that are called after "
    "splits, but {} is another set."
)


def read_dataset(
    path: str | Path,
    *,
    images: str | Path | None = None,
    split: str | Path | None = None,
    classes: Sequence[str] = EXDARK_CLASSES,
) -> Dataset:
    """Read a labelled set in any known layout, as distributed or as Roboflow, CVAT and FiftyOne export it.

    Args:
        path: the folder of `ExDark`, of DARK FACE (`read_dark_face`), in YOLO's layout (`read_yolo`) or of PASCAL VOC
            (`read_voc`); a ``data.yaml``, a COCO JSON file (`read_coco`), or a folder with such files.
        images: the folder with the images of a COCO JSON file.
        split: ``train``, ``val`` or ``test``; the default is ``test`` for ExDark, and for other sets ``val`` where such
            a folder or list exists.
        classes: the classes to keep; DARK FACE always keeps its only class.

    Raises:
        FileNotFoundError: if `path` holds none of these; the message says what is there.
        ValueError: if `split` is given but the set has no splits, or if several files fit.

    >>> import tempfile
    >>> from detection import sample_set, write_yolo
    >>> folder = Path(tempfile.mkdtemp())
    >>> _ = write_yolo(sample_set(), folder)
    >>> len(read_dataset(folder))
    6
    """
    path = Path(path)
    # One part of the layout is enough to recognise ExDark: its reader names the missing parts best.
    if any((path / part).exists() for part in (LIST, ANNOTATIONS)):
        return ExDark(path, split or "test", classes=classes)
    dark_face = (path / "image").is_dir() and (path / "label").is_dir()
    if dark_face or (path.is_file() and path.suffix.lower() == ".json"):
        if split is not None:
            raise ValueError(_NO_SPLIT.format(path))
        return read_dark_face(path) if dark_face else read_coco(path, images, classes=classes)
    if path.is_file() and path.suffix.lower() in (".yaml", ".yml", ".data"):
        return read_yolo(path, None if split is None else str(split), classes=classes)
    if path.is_file():
        return read_coco(path, images, classes=classes)
    if not path.is_dir():
        raise FileNotFoundError(f"Expected {_or(LAYOUTS)} at {path} but there is no such file or folder.")
    wanted = None if split is None else str(split)
    if json := _coco_json(path, wanted):
        return read_coco(json, images, classes=classes)
    if _is_yolo(path):
        return read_yolo(path, wanted, classes=classes)
    if any(islice(find_files(path, {".xml"}), 1)):
        folder = _part(path, wanted, ".xml")
        return read_voc(path, folder.name if folder else wanted or _voc_split(path), classes=classes)
    raise FileNotFoundError(
        f"Expected images and labels in a layout that is known at {path} but found {_found(path)}. The layouts: "
        f"{_or(LAYOUTS)}."
    )


def _voc_split(path: Path) -> str | None:
    """Return the split of a set of VOC that is taken without being named; None for a set without splits."""
    lists = [
        name for name in ("val", "train", "trainval", "test") if (path / LISTS / f"{name}.txt").is_file()
    ]
    if "val" in lists:
        return "val"
    folders = [name for name in ("train", "test") if any(islice(find_files(path / name, {".xml"}), 1))]
    splits = lists or folders
    if len(splits) > 1:
        raise ValueError(
            f"Expected one split of {path} but it has {', '.join(splits)}, and no val: name one."
        )
    return splits[0] if splits else None


def _coco_json(path: Path, split: str | None) -> Path | None:
    """Find the COCO JSON file of a folder or of its split; return None if there is no such file."""
    usual = path / "annotations.json"
    if usual.is_file():
        if split is not None:
            raise ValueError(_NO_SPLIT.format(path))
        return usual
    below = sorted((path / "annotations").glob("*.json"))
    if split is not None:
        below = [file for file in below if _is_of(file, _FOLDERS.get(split, (split,)))]
    elif vals := [file for file in below if _is_of(file, _FOLDERS["val"])]:
        below = vals
    boxes = [file for file in below if file.stem.startswith("instances")] or below
    if len(boxes) > 1:
        raise ValueError(
            f"Expected one COCO JSON file in {path} but got {', '.join(file.name for file in boxes)}: name one."
        )
    folder = _part(path, split, "_annotations.coco.json")
    others = [(folder or path) / "_annotations.coco.json", path / "labels.json"]
    return next((file for file in [*boxes, *others] if file.is_file()), None)


def _is_of(file: Path, splits: Sequence[str]) -> bool:
    """Return whether the name of a JSON file holds that of a split; ``trainval`` is neither of its parts."""
    stem = file.stem if "trainval" in splits else file.stem.replace("trainval", "")
    return any(name in stem for name in splits)


def _part(path: Path, split: str | None, end: str) -> Path | None:
    """Find the folder of a split that holds files with an ending; without a split, the folder of ``val``."""
    tried = _FOLDERS.get(split or "val", (str(split),))
    return next((path / name for name in tried if any(islice((path / name).glob(f"*{end}"), 1))), None)


def _is_yolo(path: Path) -> bool:
    """Return whether a folder holds a description of a YOLO set, or label files where YOLO keeps them."""
    if any(any(path.glob(end)) for end in ("*.yaml", "*.yml", "*.data", "*/*.yaml", "*/*.yml", "*.names")):
        return True
    if (path / "images").is_dir() and not any(islice(find_files(path, {".xml", ".json"}), 1)):
        return True
    folders = (path, path / "data", path / "obj_train_data")
    return any(file.with_suffix(".txt").is_file() for folder in folders for file in folder.glob("*.*"))


def _found(path: Path) -> str:
    """Describe the contents of a folder in words."""
    entries = sorted(path.iterdir())
    folders = [f"{entry.name}/" for entry in entries if entry.is_dir()]
    kinds = Counter(entry.suffix.lower() or "without ending" for entry in entries if not entry.is_dir())
    files = [f"{count} {'file' if count == 1 else 'files'} {kind}" for kind, count in kinds.items()]
    return ", ".join([*folders[:10], *files]) or "nothing"


def _or(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} or {names[-1]}"
