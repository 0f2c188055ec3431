"""Reader and writer of COCO JSON files.

Lin et al., "Microsoft COCO: Common Objects in Context", ECCV 2014.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from detection.data.classes import EXDARK_CLASSES, check_classes, class_map, coco_name
from detection.data.core import (
    Dataset,
    Sample,
    capped,
    file_sample,
    find_below,
    flag,
    gathered,
    inside_image,
    load_image,
    numbers,
    placed,
)
from glare.files import whole_file
from glare.reading import read_header, read_text

# Key of an image's entry for the sample's attributes beyond COCO's own fields.
_OURS = "sample"
#: Limit of the corners of boxes that are relative to the image's size, even of carelessly drawn ones: no set has all
#: of its boxes in the first two pixels.
_RELATIVE = 2
_CARELESS = 1.02  # times the image's size: no box that was drawn on it ends beyond


def read_coco(
    annotations: str | Path,
    images: str | Path | Callable[[str], Path] | None = None,
    *,
    classes: Sequence[str] = EXDARK_CLASSES,
) -> Dataset:
    """Read a COCO JSON file; only the headers of the images are read, for their sizes.

    Args:
        annotations: the JSON file.
        images: the folder that the file names start from, or a function from a file name to the file; by default the
            first folder that holds one of the images: the JSON file's own, ``images`` in that folder or beside it.
        classes: the classes to keep, matched by name; boxes of any other class are left out.

    Returns:
        The set with all images of the file, including images without boxes. The attributes of a sample that
        `write_coco` or `write_darkened` wrote beyond COCO's own fields (light, place, category and reference) are
        restored. ``width`` and ``height`` of an image decide whether its boxes belong to the stored pixels or to the
        pixels turned upright by EXIF orientation, and by which factor the boxes are scaled if the file has another
        size. An annotation without ``bbox`` gets the box around its ``segmentation``. The `faults` name images that
        are missing, unreadable or of another shape than the JSON says (such images are left out), annotations that
        make no sense, duplicates, and images whose boxes were scaled, cut to the image, or dropped as outside.

    Raises:
        FileNotFoundError: if the file, or a folder with its images, is not there.
        ValueError: if the file is no COCO JSON, no category is among `classes`, or a category has two meanings.

    >>> import tempfile
    >>> from detection import sample_set, write_yolo
    >>> folder = Path(tempfile.mkdtemp())
    >>> write_coco(write_yolo(sample_set(), folder), folder / "set.json")
    >>> len(read_coco(folder / "set.json"))
    6
    """
    annotations = Path(annotations)
    try:
        content = json.loads(read_text(annotations))
        if not isinstance(content, dict):
            raise TypeError(f"no object at its top but a {type(content).__name__}")
        categories = [(category["id"], str(category["name"])) for category in content["categories"]]
        listed_images = [_Entry.of(entry) for entry in content["images"]]
        listed = list(content["annotations"])
    except (
        KeyError,
        TypeError,
        ValueError,
        AttributeError,
    ) as error:  # a file that is no JSON or no text ends here too
        raise ValueError(f"Expected a COCO JSON file at {annotations} but got stuck: {error!r}.") from error
    names = [name for _, name in categories]
    check_classes(names, classes, annotations)
    faults: list[str] = []
    to_label = _labels_of(categories, classes, annotations, faults)
    entries, same = _once(listed_images, annotations.name, faults)
    marks: dict[Any, list[_Mark]] = {number: [] for number in entries}
    senseless: list[str] = []
    for place, annotation in enumerate(listed, 1):
        try:
            number, mark = _mark(annotation, same, to_label)
        except (AttributeError, TypeError, ValueError) as error:
            senseless.append(f"{annotations.name}, annotation {place}: {error}")
            continue
        if mark.label >= 0 and number in marks:
            marks[number].append(mark)
    faults += capped(senseless)
    corners = [corner for found in marks.values() for mark in found for corner in mark.box]
    if corners and 0 < max(corners) <= _RELATIVE:
        raise ValueError(
            f"Expected boxes in pixels in {annotations} but all of them lie within [0,1], or nearly so."
        )
    if not callable(images):
        folder = Path(images or _image_folder(annotations, [entry.file for entry in entries.values()]))
        if not folder.is_dir():
            raise FileNotFoundError(
                f"Expected argument `images` to be a folder but there is none at {folder}."
            )
        images = partial(find_below, folder)
    samples = []
    told: list[tuple[str, str]] = []
    drawn = beyond = 0
    for number, entry in entries.items():
        about: dict[str, Any] = dict(entry.ours)
        try:
            path = images(entry.file)
            header = read_header(path)
            upright, wide, high, line = placed(entry.size, header)
        except (OSError, ValueError) as error:
            faults.append(f"{entry.file}: {error}")
            continue
        # `write_coco` names the pixels that boxes belong to, where EXIF orientation leaves a choice.
        if pixels := about.pop("pixels", ""):
            upright, line = pixels == "upright" and header.orientation > 1, ""
        boxes = np.array([mark.box for mark in marks[number]]).reshape(-1, 4) * [wide, high, wide, high]
        size = header.upright if upright else header.size
        drawn += len(boxes)
        beyond += int((boxes[:, 2:] > np.multiply(size, _CARELESS)).any(axis=1).sum())
        sample, mended = inside_image(
            file_sample(
                about.pop("name", entry.file),
                path,
                boxes,
                [mark.label for mark in marks[number]],
                [mark.crowd for mark in marks[number]],
                upright=upright,
            ),
            *size,
        )
        faults += mended
        told += [(entry.file, what) for what in (line, header.losses) if what]
        clean = about.pop("reference", None)
        if clean is not None:
            file = images(clean)
            sample = replace(sample, reference=partial(load_image, file), reference_path=file)
        samples.append(replace(sample, **about))
    info = content.get("info")
    note = info.get("note", "") if isinstance(info, dict) else ""
    left_out = len({entry.file for entry in listed_images}) - len(samples)
    if beyond > 3 and 2 * beyond > drawn:
        faults.append(
            f"{beyond} of {drawn} boxes end beyond their images: are they x1 y1 x2 y2? COCO's are x y width height"
        )
    faults += gathered(told)
    return Dataset(tuple(samples), tuple(classes), str(note), tuple(faults), left_out, tuple(names))


@dataclass(frozen=True)
class _Entry:
    """Image of a COCO JSON file."""

    number: Any  # id of the image
    file: str
    size: tuple[float, float] | None  # width and height
    ours: Mapping[str, str]

    @classmethod
    def of(cls, entry: dict[str, Any]) -> _Entry:
        try:
            width, height = (float(entry.get(key) or 0) for key in ("width", "height"))
        except (TypeError, ValueError):
            width = height = 0.0
        size = (width, height) if width > 0 and height > 0 else None
        hash(entry["id"])  # raises the error of an unhashable id now, not at a look-up
        return cls(entry["id"], str(entry["file_name"]).replace("\\", "/"), size, _ours(entry))


def _labels_of(
    categories: Sequence[tuple[Any, str]], classes: Sequence[str], annotations: Path, faults: list[str]
) -> dict[Any, int]:
    """Return the label of each category, -1 for a category that is not kept."""
    to_label: dict[Any, int] = {}
    names: dict[Any, str] = {}
    for (number, name), label in zip(
        categories, class_map([name for _, name in categories], classes).tolist(), strict=True
    ):
        if number in names:
            if coco_name(names[number]) != coco_name(name):
                raise ValueError(
                    f"Expected one meaning of each category in {annotations} but {number!r} is {names[number]} "
                    f"and {name}."
                )
            faults.append(f"{annotations.name}: category {number!r}, {name}, is there twice")
        names[number], to_label[number] = name, label
    return to_label


def _once(listed: Sequence[_Entry], file: str, faults: list[str]) -> tuple[dict[Any, _Entry], dict[Any, Any]]:
    """Return each image once, by its id, and for every id the id of the image that it means.

    Two files with one id are both left out: nothing tells which of the two a box belongs to.
    """
    by_number: dict[Any, list[_Entry]] = {}
    for entry in listed:
        by_number.setdefault(entry.number, []).append(entry)
    entries: dict[Any, _Entry] = {}
    same: dict[Any, Any] = {}
    by_file: dict[str, Any] = {}
    for number, (entry, *more) in by_number.items():
        if others := [other.file for other in more if other.file != entry.file]:
            faults.append(
                f"{file}: image {number!r} is {entry.file} and {others[0]}: left out, with all its boxes"
            )
            same[number] = number
            continue
        if more:
            faults.append(f"{file}: image {number!r}, {entry.file}, is there {1 + len(more)} times")
        first = by_file.setdefault(entry.file, number)
        same[number] = first
        if first == number:
            entries[number] = entry
        else:
            faults.append(
                f"{file}: {entry.file} is image {first!r} and {number!r}: taken once, with the boxes of both"
            )
    return entries, same


@dataclass(frozen=True)
class _Mark:
    box: tuple[float, float, float, float]  # x1 y1 x2 y2
    label: int  # -1 for a class that is not kept
    crowd: bool


def _mark(
    annotation: dict[str, Any], images: Mapping[Any, Any], to_label: Mapping[Any, int]
) -> tuple[Any, _Mark]:
    """Return the id of an annotation's image, and the annotation's box, label and crowd flag."""
    for key, known in (("image_id", images), ("category_id", to_label)):
        if annotation.get(key) not in known:
            raise ValueError(f"unknown {key} {annotation.get(key)!r}")
    bbox = annotation.get("bbox")
    if not bbox and annotation.get("segmentation"):
        bbox = _around(annotation["segmentation"])
    if not isinstance(bbox, list) or len(bbox) != 4:
        raise ValueError(f"expected a bbox of x, y, width and height but got {bbox!r}")
    x, y, width, height = numbers([str(value) for value in bbox])
    label = to_label[annotation["category_id"]]
    return images[annotation["image_id"]], _Mark(
        (x, y, x + width, y + height), label, flag(annotation.get("iscrowd"))
    )


def _around(segmentation: Any) -> list[float]:
    """Return the box around polygons or around a run-length mask: x, y, width and height."""
    if isinstance(segmentation, dict):
        from pycocotools import mask

        height, width = segmentation["size"]
        runs = (
            segmentation
            if isinstance(segmentation["counts"], str)
            else mask.frPyObjects(segmentation, height, width)
        )
        return [float(value) for value in mask.toBbox(runs)]
    # Some tools write the one polygon without the list around it.
    polygons = segmentation if isinstance(segmentation[0], list) else [segmentation]
    x = [float(value) for polygon in polygons for value in polygon[::2]]
    y = [float(value) for polygon in polygons for value in polygon[1::2]]
    return [min(x), min(y), max(x) - min(x), max(y) - min(y)]


def _ours(entry: dict[str, Any]) -> dict[str, Any]:
    about = entry.get(_OURS)
    known = ("name", "light", "place", "category", "reference", "pixels")
    return {key: str(about[key]) for key in known if key in about} if isinstance(about, dict) else {}


def _image_folder(annotations: Path, names: Sequence[str]) -> Path:
    beside, above = annotations.parent, annotations.parent.parent
    candidates = [beside, beside / "images", above / "images", beside / "data", above]
    for folder in candidates:
        # Some images may be missing, even the first.
        if any(find_below(folder, name).is_file() for name in names):
            return folder
    # COCO's own `val2017`, say, lies beside `annotations`; images of another split may have the same names.
    below = [folder for place in (above, above / "images") for folder in sorted(place.glob("*/"))]
    below = [folder for folder in below if any(find_below(folder, name).is_file() for name in names)]
    below = [folder for folder in below if folder.name.lower() in annotations.stem.lower()] or below
    if len(below) > 1:
        raise ValueError(
            f"Expected one folder with the images of {annotations}, such as {names[0]!r}, but got "
            f"{', '.join(map(str, below))}; name the folder."
        )
    if below:
        return below[0]
    listed = ", ".join(map(str, candidates))
    raise FileNotFoundError(
        f"Expected the images of {annotations}, such as {''.join(names[:1])!r}, in one of {listed}; name the folder."
    )


def write_coco(dataset: Dataset, file: str | Path, images: str | Path | None = None) -> None:
    """Write a set as a COCO JSON file, from which `read_coco` reads the same set; images' headers are read.

    Args:
        dataset: a set whose images are files; `write_darkened` writes a set that is darkened when it is loaded.
        file: the JSON file.
        images: the folder that the file names in the JSON file start from; by default the folder of `file`. Give
            `read_coco` the same folder.

    Raises:
        ValueError: if an image is no file, or lies outside the folder.
        OSError: if an image is missing or its header cannot be read.

    >>> import tempfile
    >>> from detection import sample_set, write_yolo
    >>> folder = Path(tempfile.mkdtemp())
    >>> files = write_yolo(sample_set(), folder / "yolo")
    >>> write_coco(files, folder / "set.json")
    >>> json.loads((folder / "set.json").read_text())["images"][0]["file_name"]
    'yolo/images/astronaut.png'
    """
    file = Path(file)
    folder = os.path.abspath(file.parent if images is None else images)
    entries = []
    for sample in dataset.samples:
        if sample.path is None:
            raise ValueError(
                f"Expected argument `dataset` to hold files but {sample.name} ({sample.light}) is none; "
                "write_darkened writes what is darkened when it is loaded."
            )
        path = Path(os.path.abspath(sample.path))  # the path as it is spelt; links are not followed
        if not path.is_relative_to(folder):
            raise ValueError(f"Expected argument `images` to be a folder above {path} but got {folder}.")
        header = read_header(path)
        size = header.upright if sample.upright else header.size
        entry = image_entry(sample, path.relative_to(folder).as_posix(), size)
        if header.orientation > 1:
            entry.setdefault(_OURS, {})["pixels"] = "upright" if sample.upright else "stored"
        entries.append(entry)
    write_entries(dataset, entries, file)


def image_entry(
    sample: Sample, file_name: str, size: tuple[int, int], reference: str | None = None
) -> dict[str, Any]:
    """Return a COCO JSON file's entry of an image: path, (width, height), and the sample's other attributes."""
    ours = {"name": sample.name, "light": sample.light, "place": sample.place, "category": sample.category}
    plain = {"name": file_name, "light": Sample.light, "place": "", "category": ""}
    about = {key: value for key, value in ours.items() if value != plain[key]}
    if reference is not None:
        about["reference"] = reference
    entry = {"file_name": file_name, "width": size[0], "height": size[1]}
    return entry | {_OURS: about} if about else entry


def write_entries(dataset: Dataset, entries: Iterable[dict[str, Any]], file: Path) -> None:
    """Write a COCO JSON file of a set and the `image_entry` of each of its samples; all ids start at 1.

    pycocotools silently never matches an annotation whose id is 0.
    """
    marks = [
        {
            "image_id": number,
            "category_id": int(label) + 1,
            "bbox": [float(x1), float(y1), float(x2 - x1), float(y2 - y1)],
            "area": float((x2 - x1) * (y2 - y1)),
            "iscrowd": int(crowd),
        }
        for number, sample in enumerate(dataset.samples, 1)
        for (x1, y1, x2, y2), label, crowd in zip(sample.boxes, sample.labels, sample.crowd, strict=True)
    ]
    content = {
        "info": {"note": dataset.note},
        "images": [{"id": number, **entry} for number, entry in enumerate(entries, 1)],
        "categories": [{"id": number, "name": name} for number, name in enumerate(dataset.classes, 1)],
        "annotations": [{"id": number, **mark} for number, mark in enumerate(marks, 1)],
    }
    with whole_file(file) as beside:
        beside.write_text(json.dumps(content), encoding="utf-8")
