"""YOLO's layout, read and written: a folder of images beside one of label files."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]
from PIL import Image
from tqdm import tqdm

from detection.data.classes import COCO_CLASSES, EXDARK_CLASSES, check_classes, class_map
from detection.data.core import (
    Dataset,
    Sample,
    file_sample,
    inside_image,
    numbers,
    open_image,
    relative_name,
    stems,
)
from glare.files import IMAGE_SUFFIXES, whole_file

SPLITS = ("train", "val", "test")
"""The parts of a set in ultralytics' ``data.yaml``."""
_ORIENTATION = 0x0112  # EXIF


def read_yolo(
    root: str | Path,
    split: str | None = None,
    *,
    names: Sequence[str] | None = None,
    classes: Sequence[str] = EXDARK_CLASSES,
) -> Dataset:
    """Read a set in YOLO's layout; of each image only the header is opened, for its size.

    Args:
        root: ultralytics' ``data.yaml``, which says where the images of each split lie, or a folder with that file;
            without one a folder with ``images/``. The labels lie under the same relative names in the folder that is
            called ``labels`` where that of the images is called ``images`` (``class cx cy w h``, relative to the
            image's size); an image without a label file has no objects.
        split: ``train``, ``val`` or ``test`` of ``data.yaml``; by default ``val``, and without such a split or such
            a file all of ``images/``.
        names: what the class numbers mean; by default what ``data.yaml`` says, and without that file the eighty
            classes of COCO.
        classes: the classes to keep; boxes of any other class are left out.

    Returns:
        The set. Images and label files that cannot be read are left out and listed in its `faults`, and so
        are label files without an image, and boxes that had to be cut to the image, or dropped with nothing of
        them inside (those images stay).

    Raises:
        FileNotFoundError: if there are no images, or no folder of labels.
        ValueError: if there is no such split, or none of the names is among `classes`.

    >>> import tempfile
    >>> from detection import sample_set
    >>> folder = Path(tempfile.mkdtemp())
    >>> _ = write_yolo({"train": sample_set(), "val": sample_set()}, folder)
    >>> read_yolo(folder, "val").note
    'val of data.yaml'
    """
    root = Path(root)
    file, described = _described(root)
    places = yolo_splits(root)
    if split is None and places.get("val"):
        split = "val"
    if split is None:
        folders, note = [file.parent / "images"], ""
    elif split not in places:
        raise ValueError(
            f"Expected argument `split` to be one that {file} names ({', '.join(places) or 'none'}) but got {split!r}."
        )
    elif not places[split]:
        raise FileNotFoundError(
            f"Expected folders of images at {described[split]}, {split} of {file}, but there are none."
        )
    else:
        folders, note = places[split], f"{split} of {file.name}"
    names = names or _names(file, described) or COCO_CLASSES
    check_classes(names, classes, root)
    return _read_yolo(folders, names, classes, note)


def yolo_splits(root: str | Path) -> dict[str, list[Path]]:
    """Return the folders with the images of each split that ultralytics' ``data.yaml`` names.

    Args:
        root: the file, or a folder that may hold it.

    Returns:
        By ``train``, ``val`` and ``test``, as far as there are such; an empty list where the folders are not there.
    """
    file, described = _described(Path(root))
    base = file.parent / str(described.get("path", ""))
    if not base.is_dir():  # the place on somebody else's disk
        base = file.parent
    return {split: _image_folders(base, described[split]) for split in SPLITS if described.get(split)}


def _described(root: Path) -> tuple[Path, dict[str, Any]]:
    """Where ``data.yaml`` is, or would be, and what it says."""
    file = root / "data.yaml" if root.is_dir() else root
    if not file.is_file():
        return file, {}
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8-sig")) or {}
    except yaml.YAMLError as error:
        raise ValueError(f"Expected YAML in {file} but got stuck: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"Expected ultralytics' description of a set in {file} but got {content!r}.")
    return file, content


def _image_folders(base: Path, named: object) -> list[Path]:
    found: list[Path] = []
    for name in named if isinstance(named, list) else [named]:
        # Roboflow's paths start one folder too high; and some name the folder above that of the images.
        tried = [base / part for part in (str(name), str(name).removeprefix("../"))]
        there = [place for above in tried for place in (above / "images", above) if place.is_dir()]
        if not there:
            return []
        found.append(there[0])
    return found


def _read_yolo(
    folders: Sequence[Path], names: Sequence[str], classes: Sequence[str], note: str = ""
) -> Dataset:
    to_label = class_map(names, classes)
    above = Path(os.path.commonpath(folders))
    files: list[Path] = []
    samples: list[Sample] = []
    faults: list[str] = []
    for images in folders:
        own, labels = image_files(images), _labels(images)
        if not labels.is_dir():  # every image would be one without objects
            raise FileNotFoundError(f"Expected the labels of {images} in {labels} but there is none.")
        faults += without_image(labels, images, own)
        files += own
    for file in files:
        name = file.relative_to(above).as_posix()
        try:
            with open_image(file) as image:
                width, height = image.size
            marks = _yolo_labels(_labels(file).with_suffix(".txt"), len(names))
        except (OSError, ValueError) as error:
            faults.append(f"{name}: {error}")
            continue
        kept = [(int(to_label[number]), box) for number, box in marks if to_label[number] >= 0]
        sample, mended = inside_image(
            file_sample(
                name,
                file,
                [
                    [(cx - w / 2) * width, (cy - h / 2) * height, (cx + w / 2) * width, (cy + h / 2) * height]
                    for _, (cx, cy, w, h) in kept
                ],
                [label for label, _ in kept],
            ),
            width,
            height,
        )
        samples.append(sample)
        faults += mended
    return Dataset(tuple(samples), tuple(classes), note, tuple(faults), len(files) - len(samples))


def _labels(path: Path) -> Path:
    """Where the labels of an image or of a folder of images are: the last ``images`` in its path is ``labels``."""
    parts = list(path.parts)
    if "images" in parts:
        parts[len(parts) - 1 - parts[::-1].index("images")] = "labels"
    return Path(*parts)


def image_files(folder: Path) -> list[Path]:
    """Return the images below a folder; raises FileNotFoundError if there are none."""
    files = sorted(file for file in folder.rglob("*") if file.suffix.lower() in IMAGE_SUFFIXES)
    if not files:
        raise FileNotFoundError(f"Expected images in {folder} but found none.")
    return files


def without_image(labels: Path, images: Path, files: Sequence[Path]) -> list[str]:
    """Return a line on each label file below ``labels`` that is of none of the image files below ``images``."""
    known = {file.relative_to(images).with_suffix("") for file in files}
    written = sorted(file.relative_to(labels) for file in labels.rglob("*.txt"))
    # `classes.txt` is what labelling tools leave beside the labels.
    return [
        f"{labels.name}/{label.as_posix()}: there is no image of this name"
        for label in written
        if label.with_suffix("") not in known and label.name != "classes.txt"
    ]


def _names(file: Path, described: Mapping[str, Any]) -> list[str] | None:
    if not described:
        return None
    names = described.get("names")
    if isinstance(names, dict):
        if sorted(names) != list(range(len(names))):
            raise ValueError(
                f"Expected the numbers of {file} to be 0 to {len(names) - 1} but got {list(names)}."
            )
        names = [names[number] for number in sorted(names)]
    if not isinstance(names, list) or not names:
        raise ValueError(f"Expected a list `names` in {file} but got {names!r}.")
    return [str(name) for name in names]


def _yolo_labels(file: Path, classes: int) -> list[tuple[int, list[float]]]:
    marks = []
    lines = file.read_text(encoding="utf-8-sig").splitlines() if file.is_file() else []
    for place, line in enumerate(lines, 1):
        fields = line.split()
        if not fields:
            continue
        try:
            number, box = int(fields[0]), numbers(fields[1:])
            if len(box) != 4 or not 0 <= number < classes:
                raise ValueError(f"expected `class cx cy w h` with a class below {classes} but got {line!r}")
        except ValueError as error:
            raise ValueError(f"its label file, line {place}: {error}") from error
        marks.append((number, box))
    return marks


def write_yolo(dataset: Dataset | Mapping[str, Dataset], folder: str | Path) -> Dataset:
    """Write sets as ultralytics trains on them: ``images/``, ``labels/`` and ``data.yaml``, which names no place.

    Images are copied, and those that are no files, or that EXIF orientation would turn, are written as PNG of
    the stored pixels: ultralytics turns an image but not its boxes. No links: it also repairs broken JPEG files
    in place. Boxes are cut to the image, since it drops an image with any beyond; crowds are left out, since a
    label file knows none.

    Args:
        dataset: a set, for training and validation both; or sets by their names in ultralytics' YAML, ``train``,
            ``val`` and ``test``, which go to ``images/train`` and so on. Without ``val`` or ``train`` the first
            set stands in.
        folder: a folder that is new or empty.

    Returns:
        What is in the folder, all sets together. Its `faults` are those of the sets, what was cut, and the images
        that could not be read, which are left out.

    Raises:
        ValueError: if a set has another name or other classes than the first, or if two images have one name, as the
            lights of a photograph do: one light per folder.
        FileExistsError: if there is something in the folder.
        FileNotFoundError: if no image could be written.

    >>> import tempfile
    >>> from detection import sample_set
    >>> folder = Path(tempfile.mkdtemp())
    >>> _ = write_yolo(sample_set(), folder)
    >>> sorted(file.name for file in folder.iterdir())
    ['data.yaml', 'images', 'labels']
    """
    folder = Path(folder)
    parts = {"": dataset} if isinstance(dataset, Dataset) else dict(dataset)
    if not parts or not parts.keys() <= {"", *SPLITS}:
        raise ValueError(f"Expected argument `dataset` to have sets train, val, test but got {list(parts)}.")
    classes = next(iter(parts.values())).classes
    if other := [part.classes for part in parts.values() if part.classes != classes]:
        raise ValueError(
            f"Expected argument `dataset` to have one list of classes but got {classes}, {other[0]}."
        )
    if folder.exists() and any(folder.iterdir()):
        raise FileExistsError(
            f"Expected argument `folder` to be new or empty but there are files in {folder}."
        )
    paths = {split: _stems(part) for split, part in parts.items()}
    faults: list[str] = []
    for split, part in parts.items():
        faults += part.faults
        bar = tqdm(part.samples, desc=split or "write", unit="image", disable=None)
        for sample, stem in zip(bar, paths[split], strict=True):
            try:
                faults += _write_labelled(sample, folder, split / stem)
            except (OSError, ValueError) as error:
                faults.append(f"{sample.name}: {error}")
    places = {split: f"images/{split}" for split in parts if split}
    first = next(iter(places.values()), "images")
    described = {"train": first, "val": first, **places, "names": dict(enumerate(classes))}
    with whole_file(folder / "data.yaml") as beside:
        beside.write_text(yaml.safe_dump(described, sort_keys=False), encoding="utf-8")
    written = _read_yolo([folder / "images"], classes, classes)
    left_out = sum(len(part) + part.left_out for part in parts.values()) - len(written)
    return written.replace(faults=tuple(dict.fromkeys([*faults, *written.faults])), left_out=left_out)


def _stems(dataset: Dataset) -> list[Path]:
    """The names of the label files of the samples, without ``.txt``."""
    names = [relative_name(sample.name).as_posix() for sample in dataset.samples]
    found = stems(names)
    if twice := [stem for stem, count in Counter(map(str.casefold, found)).items() if count > 1]:
        raise ValueError(
            f"Expected argument `dataset` to have images of different names but got {twice[0]} twice; the lights of a "
            "photograph go to one folder each."
        )
    return [Path(stem) for stem in found]


def _write_labelled(sample: Sample, folder: Path, stem: Path) -> list[str]:
    """Write one image and its label file; returns what had to be cut."""
    source = sample.path if sample.path and _can_be_copied(sample.path) else None
    picture = open_image(source) if source else Image.fromarray(sample.load())
    with picture:
        inside, cut = inside_image(sample, *picture.size)
        width, height = picture.size
        lines = [
            f"{label} {(x1 + x2) / 2 / width:.6f} {(y1 + y2) / 2 / height:.6f} "
            f"{(x2 - x1) / width:.6f} {(y2 - y1) / height:.6f}\n"
            for (x1, y1, x2, y2), label, crowd in zip(inside.boxes, inside.labels, inside.crowd, strict=True)
            if not crowd
        ]
        # The labels first: an image without any would be taken for one without objects.
        with whole_file(folder / "labels" / f"{stem}.txt") as beside:
            beside.write_text("".join(lines), encoding="utf-8")
        with whole_file(folder / "images" / f"{stem}{source.suffix if source else '.png'}") as beside:
            if source:
                shutil.copyfile(source, beside)
            else:
                picture.save(beside, format="PNG")
    return cut


def _can_be_copied(path: Path) -> bool:
    with open_image(path) as image:
        try:
            upright = image.getexif().get(_ORIENTATION, 1) == 1
        except SyntaxError as error:  # a PNG may have its EXIF data behind the pixels, which are broken
            raise OSError(f"cannot decode {path}: {error}") from error
    return upright and path.suffix.lower() in IMAGE_SUFFIXES
