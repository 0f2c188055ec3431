"""Reader of PASCAL VOC's XML files, one for each image, in any folder.

Everingham et al., "The Pascal Visual Object Classes Challenge: A Retrospective", IJCV 2015.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from detection.data.classes import EXDARK_CLASSES, check_classes, class_map
from detection.data.core import Dataset, Sample, file_sample, flag, gathered, inside_image, numbers, placed
from glare.reading import find_files, left_alongside, read_header, read_text

LISTS = Path("ImageSets", "Main")
"""Folder of VOC's lists of images: a text file of each split, with the name of the split."""


def read_voc(
    root: str | Path, split: str | None = None, *, classes: Sequence[str] = EXDARK_CLASSES
) -> Dataset:
    """Read a set of XML files; only the headers of the images are read, for their sizes.

    Args:
        root: a folder above the XML files (``Annotations/`` in VOC) and the images (``JPEGImages/``, ``images/``,
            ``data/``, or beside the XML files, as LabelImg and Roboflow write them).
        split: a list in ``ImageSets/Main/``, or a folder of this name; by default all files below `root`.
        classes: the classes to keep, matched by name; boxes of any other class are left out.

    Returns:
        The set of the images that have an XML file, in the order of the names. Coordinates count from 0, as most tools
        write them. A ``difficult`` box is a crowd, see `Sample`. ``size`` decides whether boxes belong to stored or
        upright pixels, see `read_coco`. Images and XML files that cannot be read, and images without an XML file, are
        left out and listed in the `faults`.

    Raises:
        FileNotFoundError: if there are no XML files of VOC, or the split is missing.
        ValueError: if no class of the set is among `classes`.
    """
    title = Path(root).name
    root, wanted = _split(Path(root), split)
    files = find_files(root, {".xml"})
    pictures = find_files(root)
    beside = {file.with_suffix(""): file for file in pictures}
    by_name: dict[str, list[Path]] = {}
    for picture in pictures:
        for key in (picture.name.casefold(), picture.stem.casefold()):
            by_name.setdefault(key, []).append(picture)
    faults = left_alongside(root)
    found: list[tuple[Path, _Annotation]] = []
    listed = 0
    for file in files:
        if wanted is not None and file.stem not in wanted:
            continue
        try:
            annotation = _annotation(file)
            if annotation is None:
                continue
            image = beside.get(file.with_suffix("")) or _picture(file, annotation, by_name)
            found.append((image, annotation))
        except (OSError, ValueError) as error:
            faults.append(f"{file.name}: {error}")
        listed += 1
    if not listed:
        raise FileNotFoundError(f"Expected XML files of PASCAL VOC below {root} but found none.")
    named = {image for image, _ in found}
    stems = {file.stem for file in files}
    alone = [picture.name for picture in pictures if picture not in named and picture.stem not in stems]
    if wanted is not None:
        alone = []
    if alone:
        faults.append(
            f"{len(alone)} of {len(pictures)} images have no XML file and are left out: {alone[0]}, ..."
        )
    if not found:
        raise ValueError(f"Expected XML files of PASCAL VOC below {root} but none is good: {faults[0]}.")
    names = tuple(dict.fromkeys(name for _, annotation in found for name in annotation.names))
    check_classes(names, classes, root)
    samples: list[Sample] = []
    told: list[tuple[str, str]] = []
    for image, annotation in found:
        name = image.relative_to(root).as_posix()
        try:
            header = read_header(image)
            upright, wide, high, line = placed(annotation.size, header)
        except (OSError, ValueError) as error:
            faults.append(f"{name}: {error}")
            continue
        labels = class_map(annotation.names, classes)
        kept = labels >= 0
        boxes = np.array(annotation.boxes).reshape(-1, 4) * [wide, high, wide, high]
        sample, mended = inside_image(
            file_sample(
                name,
                image,
                boxes[kept],
                labels[kept].tolist(),
                np.array(annotation.difficult, dtype=bool)[kept].tolist(),
                upright=upright,
            ),
            *(header.upright if upright else header.size),
        )
        samples.append(sample)
        faults += mended
        told += [(name, what) for what in (line, header.losses) if what]
    note = f"{split} of {title}" if split else ""
    left_out = listed + len(alone) - len(samples)
    return Dataset(tuple(samples), tuple(classes), note, (*faults, *gathered(told)), left_out, names)


@dataclass(frozen=True)
class _Annotation:
    """Content of an XML file."""

    file: str  # the name of the image
    size: tuple[float, float] | None  # width and height
    names: list[str]
    boxes: list[list[float]]  # x1 y1 x2 y2
    difficult: list[bool]


def _split(root: Path, split: str | None) -> tuple[Path, set[str] | None]:
    """Return the folder of a split, and the names of its images where a list gives the names."""
    if split is None:
        return root, None
    file = root / LISTS / f"{split}.txt"
    if file.is_file():
        return root, {line.split()[0] for line in read_text(file).splitlines() if line.strip()}
    if (root / split).is_dir():
        return root / split, None
    raise FileNotFoundError(
        f"Expected the split {split!r} of {root} at {LISTS / file.name} but there is none."
    )


def _picture(file: Path, annotation: _Annotation, by_name: Mapping[str, Sequence[Path]]) -> Path:
    """Find the image of an XML file in another folder; among several, the one in a folder of the same name."""
    keys = annotation.file.casefold(), file.stem.casefold()
    found = next((by_name[key] for key in keys if key in by_name), [])
    found = [picture for picture in found if picture.parent.name == file.parent.name] or found
    if len(found) != 1:
        listed = ", ".join(f"{picture.parent.name}/{picture.name}" for picture in found) or "none"
        raise FileNotFoundError(f"expected one image {annotation.file or file.stem} but got {listed}")
    return found[0]


def _corners(mark: ElementTree.Element) -> list[float]:
    """Return the box of an object, or the box around its polygon: x1 y1 x2 y2."""
    polygon = mark.find("polygon")
    if mark.find("bndbox") is None and polygon is not None:  # x1, y1, x2, y2, ..., or <pt><x/><y/></pt>
        points = numbers(
            [(one.text or "").strip() for one in polygon.iter() if re.match(r"[xy]\d*$", one.tag)]
        )
        if len(points) >= 6:
            return [min(points[::2]), min(points[1::2]), max(points[::2]), max(points[1::2])]
    if mark.find("bndbox") is None:
        raise ValueError(f"an object {mark.findtext('name')!r} has no bndbox")
    keys = ("xmin", "ymin", "xmax", "ymax")
    return numbers([(mark.findtext(f"bndbox/{key}") or "").strip() for key in keys])


def _annotation(file: Path) -> _Annotation | None:
    """Read an XML file; return None if the file is no annotation."""
    try:
        top = ElementTree.fromstring(file.read_bytes())
    except ElementTree.ParseError as error:
        raise ValueError(f"expected XML but got stuck: {error}") from error
    if top.tag != "annotation":
        return None
    size = [float(top.findtext(f"size/{side}") or 0) for side in ("width", "height")]
    names: list[str] = []
    boxes: list[list[float]] = []
    difficult: list[bool] = []
    for mark in top.iter("object"):
        names.append((mark.findtext("name") or "").strip())
        boxes.append(_corners(mark))
        difficult.append(flag((mark.findtext("difficult") or "").strip()))
    image = (top.findtext("filename") or "").replace("\\", "/").rpartition("/")[2].strip()
    return _Annotation(image, (size[0], size[1]) if min(size) > 0 else None, names, boxes, difficult)
