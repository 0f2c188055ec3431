"""COCO JSON files, read and written.

Lin et al., "Microsoft COCO: Common Objects in Context", ECCV 2014.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from detection.data.classes import EXDARK_CLASSES, check_classes, class_map
from detection.data.core import Dataset, Sample, file_sample, inside_image, load_image, numbers, open_image
from glare.files import whole_file

# What a sample knows beyond COCO's own fields stands under this key of its image.
_OURS = "sample"


def read_coco(
    annotations: str | Path,
    images: str | Path | Callable[[str], Path] | None = None,
    *,
    classes: Sequence[str] = EXDARK_CLASSES,
) -> Dataset:
    """Read a COCO JSON file; of each image only the header is opened, for its size.

    Args:
        annotations: the JSON file.
        images: the folder its file names start from, or a function from such a name to the file; by default the
            first of the file's own folder, ``images`` in it and ``images`` beside it that holds one of the images.
        classes: the classes to keep, matched by name; boxes of any other class are left out.

    Returns:
        The set with all images of the file, also those without boxes. What `write_coco` or `write_darkened`
        wrote about a sample beyond COCO's own fields (its light, place, category and reference) is back. Its
        `faults` say which images are missing or unreadable (they are left out), which annotations make no sense,
        and where boxes were cut to the image, or dropped with nothing of them inside.

    Raises:
        FileNotFoundError: if the file, or a folder with its images, is not there.
        ValueError: if it is no COCO JSON file, or none of its categories is among `classes`.

    >>> import tempfile
    >>> from detection import sample_set, write_yolo
    >>> folder = Path(tempfile.mkdtemp())
    >>> write_coco(write_yolo(sample_set(), folder), folder / "set.json")
    >>> len(read_coco(folder / "set.json"))
    6
    """
    annotations = Path(annotations)
    try:
        content = json.loads(annotations.read_text(encoding="utf-8-sig"))
        if not isinstance(content, dict):
            raise TypeError(f"no object at its top but a {type(content).__name__}")
        names = [str(category["name"]) for category in content["categories"]]
        to_label = dict(
            zip((c["id"] for c in content["categories"]), class_map(names, classes).tolist(), strict=True)
        )
        entries = {entry["id"]: (str(entry["file_name"]), _ours(entry)) for entry in content["images"]}
        listed = list(content["annotations"])
    except (KeyError, TypeError, ValueError) as error:  # also what is no JSON or no text at all
        raise ValueError(f"Expected a COCO JSON file at {annotations} but got stuck: {error!r}.") from error
    check_classes(names, classes, annotations)
    faults: list[str] = []
    marks: dict[Any, list[_Mark]] = {number: [] for number in entries}
    for place, annotation in enumerate(listed, 1):
        try:
            number, mark = _mark(annotation, entries, to_label)
        except (AttributeError, TypeError, ValueError) as error:
            faults.append(f"{annotations.name}, annotation {place}: {error}")
            continue
        if mark.label >= 0:
            marks[number].append(mark)
    if not callable(images):
        folder = Path(images or _image_folder(annotations, [name for name, _ in entries.values()]))
        if not folder.is_dir():
            raise FileNotFoundError(
                f"Expected argument `images` to be a folder but there is none at {folder}."
            )
        images = folder.joinpath
    samples = []
    for number, (name, about) in entries.items():
        try:
            with open_image(images(name)) as image:
                size = image.size
        except OSError as error:
            faults.append(f"{name}: {error}")
            continue
        sample, mended = inside_image(
            file_sample(
                about.pop("name", name),
                images(name),
                [mark.box for mark in marks[number]],
                [mark.label for mark in marks[number]],
                [mark.crowd for mark in marks[number]],
            ),
            *size,
        )
        faults += mended
        clean = about.pop("reference", None)
        if clean is not None:
            file = images(clean)
            sample = replace(sample, reference=partial(load_image, file), reference_path=file)
        samples.append(replace(sample, **about))
    info = content.get("info")
    note = info.get("note", "") if isinstance(info, dict) else ""
    return Dataset(tuple(samples), tuple(classes), str(note), tuple(faults), len(entries) - len(samples))


@dataclass(frozen=True)
class _Mark:
    box: tuple[float, float, float, float]  # x1 y1 x2 y2
    label: int  # -1 for a class that is not to be kept
    crowd: bool


def _mark(
    annotation: dict[str, Any], images: Container[Any], to_label: Mapping[Any, int]
) -> tuple[Any, _Mark]:
    """The id of an annotation's image, and the rest of it."""
    for key, known in (("image_id", images), ("category_id", to_label)):
        if annotation.get(key) not in known:
            raise ValueError(f"unknown {key} {annotation.get(key)!r}")
    bbox = annotation.get("bbox")
    if not isinstance(bbox, list) or len(bbox) != 4:
        raise ValueError(f"expected a bbox of x, y, width and height but got {bbox!r}")
    x, y, width, height = numbers([str(value) for value in bbox])
    label = to_label[annotation["category_id"]]
    return annotation["image_id"], _Mark(
        (x, y, x + width, y + height), label, bool(annotation.get("iscrowd"))
    )


def _ours(entry: dict[str, Any]) -> dict[str, Any]:
    about = entry.get(_OURS)
    known = ("name", "light", "place", "category", "reference")
    return {key: str(about[key]) for key in known if key in about} if isinstance(about, dict) else {}


def _image_folder(annotations: Path, names: Sequence[str]) -> Path:
    beside = annotations.parent
    candidates = (beside, beside / "images", beside.parent / "images")
    for folder in candidates:
        # One may be missing, even the first.
        if any((folder / name).is_file() for name in names):
            return folder
    listed = ", ".join(map(str, candidates))
    raise FileNotFoundError(
        f"Expected the images of {annotations}, such as {''.join(names[:1])!r}, in one of {listed}; name the folder."
    )


def write_coco(dataset: Dataset, file: str | Path, images: str | Path | None = None) -> None:
    """Write a set as a COCO JSON file, from which `read_coco` reads the same; of each image the header is opened.

    Args:
        dataset: a set whose images are files; one that is darkened when it is loaded is for `write_darkened`.
        file: the JSON file.
        images: the folder that the file names in it start from; by default the folder of `file`. Name the same
            one to `read_coco`.

    Raises:
        ValueError: if an image is no file, or lies outside the folder.
        OSError: if an image is not there or its header cannot be read.

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
        path = Path(os.path.abspath(sample.path))  # as it is spelt: links are not followed
        if not path.is_relative_to(folder):
            raise ValueError(f"Expected argument `images` to be a folder above {path} but got {folder}.")
        with open_image(path) as image:
            size = image.size
        entries.append(image_entry(sample, path.relative_to(folder).as_posix(), size))
    write_entries(dataset, entries, file)


def image_entry(
    sample: Sample, file_name: str, size: tuple[int, int], reference: str | None = None
) -> dict[str, Any]:
    """Return what a COCO JSON file says of an image: where it lies, its (width, height), and what is ours."""
    ours = {"name": sample.name, "light": sample.light, "place": sample.place, "category": sample.category}
    plain = {"name": file_name, "light": Sample.light, "place": "", "category": ""}
    about = {key: value for key, value in ours.items() if value != plain[key]}
    if reference is not None:
        about["reference"] = reference
    entry = {"file_name": file_name, "width": size[0], "height": size[1]}
    return entry | {_OURS: about} if about else entry


def write_entries(dataset: Dataset, entries: Iterable[dict[str, Any]], file: Path) -> None:
    """Write a COCO JSON file of a set and the `image_entry` of each of its samples; all ids start at 1.

    pycocotools never matches an annotation whose id is 0, and says nothing.
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
