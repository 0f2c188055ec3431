"""Readers of labelled sets: a COCO JSON file with its images, and a folder in YOLO's layout."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import yaml  # type: ignore[import-untyped]

from detection.boxes import COCO_CLASSES, EXDARK_CLASSES, class_map
from detection.dataset import Dataset, Sample, load_image, open_image

_IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"}


def read_dataset(
    path: str | Path, *, images: str | Path | None = None, classes: Sequence[str] = EXDARK_CLASSES
) -> Dataset:
    """Read a COCO JSON file (`read_coco`) or a folder in YOLO's layout (`read_yolo`).

    Raises:
        FileNotFoundError: if there is neither at `path`.
    """
    path = Path(path)
    if path.is_dir():
        return read_yolo(path, classes=classes)
    if path.is_file():
        return read_coco(path, images, classes=classes)
    raise FileNotFoundError(f"Expected a COCO JSON file or a YOLO folder at {path} but there is neither.")


def read_coco(
    annotations: str | Path, images: str | Path | None = None, *, classes: Sequence[str] = EXDARK_CLASSES
) -> Dataset:
    """Read a COCO JSON file; no image is opened.

    Args:
        annotations: the JSON file.
        images: the folder its file names start from; by default the first of the file's own folder,
            ``images`` in it and ``images`` beside it that holds the first image.
        classes: the classes to keep, matched by name; boxes of any other class are left out.

    Returns:
        The set with all images of the file, also those without boxes.

    Raises:
        FileNotFoundError: if the file, or a folder with its images, is not there.
        ValueError: if it is no COCO JSON file, or none of its categories is among `classes`.
    """
    annotations = Path(annotations)
    try:
        content = json.loads(annotations.read_text(encoding="utf-8"))
        names = [str(category["name"]) for category in content["categories"]]
        to_label = dict(
            zip((c["id"] for c in content["categories"]), class_map(names, classes).tolist(), strict=True)
        )
        entries = {entry["id"]: str(entry["file_name"]) for entry in content["images"]}
        marks: dict[Any, list[dict[str, Any]]] = {number: [] for number in entries}
        for mark in content["annotations"]:
            width, height = mark["bbox"][2:]
            if to_label[mark["category_id"]] >= 0 and width > 0 and height > 0:
                marks[mark["image_id"]].append(mark)
    except (KeyError, TypeError, ValueError) as error:  # also what is no JSON or no text at all
        raise ValueError(f"Expected a COCO JSON file at {annotations} but got stuck: {error!r}.") from error
    _check_classes(names, classes, annotations)
    first = next(iter(entries.values()), "")
    folder = _image_folder(annotations, first) if images is None else Path(images)
    if not folder.is_dir():
        raise FileNotFoundError(f"Expected argument `images` to be a folder but there is none at {folder}.")
    return Dataset(
        tuple(
            _sample(
                name,
                folder / name,
                [[x, y, x + w, y + h] for x, y, w, h in (mark["bbox"] for mark in marks[number])],
                [to_label[mark["category_id"]] for mark in marks[number]],
                [bool(mark.get("iscrowd", 0)) for mark in marks[number]],
            )
            for number, name in entries.items()
        ),
        tuple(classes),
    )


def _image_folder(annotations: Path, name: str) -> Path:
    beside = annotations.parent
    candidates = (beside, beside / "images", beside.parent / "images")
    for folder in candidates:
        if (folder / name).is_file():
            return folder
    listed = ", ".join(map(str, candidates))
    raise FileNotFoundError(
        f"Expected the image {name!r} of {annotations} in one of {listed}; name the folder."
    )


def read_yolo(
    root: str | Path, *, names: Sequence[str] | None = None, classes: Sequence[str] = EXDARK_CLASSES
) -> Dataset:
    """Read a folder in YOLO's layout; of each image only the header is opened, for its size.

    Args:
        root: a folder with ``images/`` and, under the same relative names, ``labels/`` (``class cx cy w h``,
            relative to the image's size); an image without a label file has no objects.
        names: what the class numbers mean; by default what ``data.yaml`` in `root` says, and without that
            file the eighty classes of COCO.
        classes: the classes to keep; boxes of any other class are left out.

    Returns:
        The set. Images and label files that cannot be read are left out and listed in its `faults`, and so
        are label files without an image.

    Raises:
        FileNotFoundError: if there are no images.
        ValueError: if none of the names is among `classes`.
    """
    root = Path(root)
    files = sorted(p for p in (root / "images").rglob("*") if p.suffix.lower() in _IMAGE_SUFFIXES)
    if not files:
        raise FileNotFoundError(f"Expected images in {root / 'images'} but found none.")
    names = names or _names_in_yaml(root / "data.yaml") or COCO_CLASSES
    _check_classes(names, classes, root)
    to_label = class_map(names, classes)
    samples: list[Sample] = []
    faults = _labels_without_image(root, files)
    for file in files:
        relative = file.relative_to(root / "images")
        try:
            with open_image(file) as image:
                width, height = image.size
            marks = _yolo_labels((root / "labels" / relative).with_suffix(".txt"), len(names))
        except (OSError, ValueError) as error:
            faults.append(f"{relative.as_posix()}: {error}")
            continue
        kept = [(int(to_label[number]), box) for number, box in marks if to_label[number] >= 0]
        samples.append(
            _sample(
                relative.as_posix(),
                file,
                [
                    [(cx - w / 2) * width, (cy - h / 2) * height, (cx + w / 2) * width, (cy + h / 2) * height]
                    for _, (cx, cy, w, h) in kept
                ],
                [label for label, _ in kept],
                [False] * len(kept),
            )
        )
    return Dataset(tuple(samples), tuple(classes), faults=tuple(faults))


def _labels_without_image(root: Path, files: Sequence[Path]) -> list[str]:
    images = {file.relative_to(root / "images").with_suffix("") for file in files}
    labels = sorted(file.relative_to(root / "labels") for file in (root / "labels").rglob("*.txt"))
    # `classes.txt` is what labelling tools leave beside the labels.
    return [
        f"labels/{label.as_posix()}: there is no image of this name"
        for label in labels
        if label.with_suffix("") not in images and label.name != "classes.txt"
    ]


def _names_in_yaml(file: Path) -> list[str] | None:
    if not file.is_file():
        return None
    names = (yaml.safe_load(file.read_text(encoding="utf-8")) or {}).get("names")
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
    for line in file.read_text(encoding="utf-8").splitlines() if file.is_file() else []:
        fields = line.split()
        if not fields:
            continue
        number, box = int(fields[0]), [float(field) for field in fields[1:]]
        if len(box) != 4 or not 0 <= number < classes:
            raise ValueError(f"expected `class cx cy w h` with a class below {classes} but got {line!r}")
        marks.append((number, box))
    return marks


def _check_classes(names: Sequence[str], classes: Sequence[str], where: Path) -> None:
    if (class_map(names, classes) < 0).all():
        raise ValueError(
            f"Expected a class of {where} to be one of {', '.join(classes)} but got {', '.join(names)}."
        )


def _sample(name: str, path: Path, boxes: list[list[float]], labels: list[int], crowd: list[bool]) -> Sample:
    return Sample(
        name,
        partial(load_image, path),
        np.array(boxes, dtype=np.float64).reshape(-1, 4),
        np.array(labels, dtype=np.int64),
        np.array(crowd, dtype=np.bool_),
    )
