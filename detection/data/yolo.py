"""Reader and writer of YOLO's layout: a folder of images beside a folder of label files."""

from __future__ import annotations

import glob
import os
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml  # type: ignore[import-untyped]
from PIL import Image
from tqdm import tqdm

from detection.data.classes import COCO_CLASSES, EXDARK_CLASSES, check_classes, class_map
from detection.data.core import (
    Dataset,
    Sample,
    capped,
    file_sample,
    gathered,
    inside_image,
    numbers,
    relative_name,
    stems,
)
from detection.data.yolo_yaml import SPLITS, Place, described, labels_of, names_of, unnamed
from glare.files import WRITTEN_SUFFIXES, whole_file
from glare.reading import find_files, left_alongside, open_image, read_header, read_text

_PIXELS = 10.0
"""Limit of coordinates relative to an image's size, even of a carelessly drawn box; larger numbers are pixels."""
_OUTLINE = 1.1
"""Limit of the coordinates of polygons; what is larger counts the visible points of a pose."""


def read_yolo(
    root: str | Path,
    split: str | None = None,
    *,
    names: Sequence[str] | None = None,
    classes: Sequence[str] = EXDARK_CLASSES,
) -> Dataset:
    """Read a set in YOLO's layout; only the headers of the images are read, for their sizes.

    Args:
        root: a description such as ultralytics' ``data.yaml`` or Darknet's ``obj.data``, which names the images of each
            split; or a folder that holds a description of any name; or a folder with ``images/``. The label files have
            the relative names of the images, and lie in a folder ``labels`` in place of ``images``, or beside the
            images. A line of a label file is ``class cx cy w h`` or ``class x1 y1 x2 y2 x3 y3 ...``, relative to the
            size of the image after EXIF orientation. An image without a label file has no objects.
        split: ``train``, ``val`` or ``test`` of the description. The default is ``val``, or all of ``images/`` where no
            description names ``val``. In the description a split is a folder, a text file with a list of images, a
            pattern, or a list of these.
        names: the names of the class numbers; by default the names in the description, ``classes.txt`` or
            ``obj.names``. Without such a file the numbers are taken for COCO's, and the set's `note` says so.
        classes: the classes to keep; boxes of any other class are left out.

    Returns:
        The set. Images and label files that cannot be read are left out and listed in the `faults`. The `faults` also
        list label files without an image, and boxes that were cut to the image, or dropped as outside or as
        duplicates; the images of such boxes stay.

    Raises:
        FileNotFoundError: if there are no images, or no folder of labels, or the images of a named split are missing.
        ValueError: if the split is unknown, no name is among `classes`, or the meaning of the class numbers is unknown:
            files disagree, or no file names the classes and there are numbers beyond COCO's eighty.

    >>> import tempfile
    >>> from detection import sample_set
    >>> folder = Path(tempfile.mkdtemp())
    >>> _ = write_yolo({"train": sample_set(), "val": sample_set()}, folder)
    >>> read_yolo(folder, "val").note
    'val of data.yaml'
    """
    root = Path(root)
    about = described(root)
    if split is None and about.content.get("val"):
        split = "val"
    whole = _whole(about.folder)
    if split is None and about.splits and not whole.is_dir():  # CVAT may name `train` alone
        split = about.splits[0]
    if split is None:
        parts = [part for part in SPLITS if (whole / part).is_dir()]
        places = [Place(whole)]
        note = f"{' and '.join(parts)} of {whole.name}/ together" if len(parts) > 1 else ""
    elif not about.content.get(split) or split not in SPLITS:
        raise ValueError(
            f"Expected argument `split` to be one that {about.file} names ({', '.join(about.splits) or 'none'}) but "
            f"got {split!r}."
        )
    else:
        places, note = about.places(split), f"{split} of {about.file.name}"
    told: list[str] = []
    stated = names or names_of(root, about, places, told)
    check_classes(stated or COCO_CLASSES, classes, unnamed(about) if about.nameless else root)
    found = _read_yolo(places, stated, classes, note, about.keypoints)
    return found.replace(faults=(*told, *found.faults))


def _whole(folder: Path) -> Path:
    """Find the folder of all images of a set: ``images/``, or a folder with label files beside the images."""
    if not (folder / "images").is_dir():
        for beside in (folder / "data", folder / "obj_train_data", folder):
            if any(file.with_suffix(".txt").is_file() for file in find_files(beside)):
                return beside
    return folder / "images"


def yolo_splits(root: str | Path) -> tuple[str, ...]:
    """Return the splits, out of ``train``, ``val`` and ``test``, that a set's description names, present or not.

    A ``train`` and a ``val`` of the same images are both left out.

    Args:
        root: the description, or a folder that may hold a description.
    """
    about = described(Path(root))
    if about.content.get("train") == about.content.get("val"):
        return tuple(split for split in about.splits if split == "test")
    return about.splits


def _read_yolo(
    places: Sequence[Place],
    stated: Sequence[str] | None,
    classes: Sequence[str],
    note: str = "",
    keypoints: int = 0,
) -> Dataset:
    names = stated or COCO_CLASSES
    to_label = class_map(names, classes)
    above = Path(os.path.commonpath([place.folder for place in places]))
    files: dict[Path, Path] = {}
    samples: list[Sample] = []
    faults: list[str] = []
    told: list[tuple[str, str]] = []
    left_out = unlabelled = 0
    if stated is None:
        note = ", ".join(
            filter(None, [note, "its class numbers taken for COCO's, as no file says what they mean"])
        )
    for place in places:
        own = image_files(place.folder) if place.listed is None else list(place.listed)
        labels = labels_of(place.folder)
        written = {image: label for image in own if (label := _label_file(image)).is_file()}
        if not written and not labels.is_dir():  # otherwise every image would count as one without objects
            raise FileNotFoundError(f"Expected the labels of {place.folder} in {labels} but there is none.")
        if place.listed is None:
            faults += left_alongside(place.folder)
            orphans = without_image(labels, place.folder, own) if labels != place.folder else []
            left_out += len(orphans)
            faults += capped(orphans)
        files |= {image: written.get(image, labels) for image in own}
    for file, label in files.items():
        name = file.relative_to(above).as_posix()
        try:
            header = read_header(file)
            marks = _yolo_labels(label, None if stated is None else len(names), keypoints)
        except (OSError, ValueError) as error:
            faults.append(f"{name}: {error}")
            continue
        if beyond := [number for number, _ in marks if number >= len(names)]:
            raise ValueError(
                f"Expected a file that says what the class numbers mean but there is none, and they are not COCO's "
                f"eighty: {label} has {beyond[0]}. Write `names` into a data.yaml beside images/, or a classes.txt."
            )
        kept = [(int(to_label[number]), box) for number, box in marks if to_label[number] >= 0]
        width, height = header.upright
        sample, mended = inside_image(
            file_sample(
                name,
                file,
                [
                    [(cx - w / 2) * width, (cy - h / 2) * height, (cx + w / 2) * width, (cy + h / 2) * height]
                    for _, (cx, cy, w, h) in kept
                ],
                [label for label, _ in kept],
                upright=header.orientation > 1,
            ),
            width,
            height,
        )
        samples.append(sample)
        unlabelled += not label.is_file()
        faults += mended
        if header.losses:
            told.append((name, header.losses))
    if unlabelled:
        faults.append(
            f"{unlabelled} of {len(samples)} images have no label file and are taken to show nothing"
        )
    shared: dict[Path, list[str]] = {}
    for file, label in files.items():
        shared.setdefault(label, []).append(file.name)
    faults += [
        f"{label.name} is the label file of {' and '.join(images)}: all are taken, each with its boxes"
        for label, images in shared.items()
        if len(images) > 1 and label.is_file()
    ]
    faults += gathered(told)
    return Dataset(
        tuple(samples),
        tuple(classes),
        note,
        tuple(faults),
        left_out + len(files) - len(samples),
        tuple(names),
    )


def _label_file(image: Path) -> Path:
    """Return the label file of an image: in the folder of labels, or beside the image as in Darknet."""
    label = labels_of(image).with_suffix(".txt")
    others = (image.with_suffix(".txt"), label.with_suffix(".TXT"), image.with_suffix(".TXT"))
    return next((file for file in (label, *others) if file.is_file()), label)


def image_files(folder: Path) -> list[Path]:
    """Return the images below a folder; raise FileNotFoundError if there are none."""
    files = find_files(folder)
    if not files:
        raise FileNotFoundError(f"Expected images in {folder} but found none.")
    return files


def without_image(labels: Path, images: Path, files: Sequence[Path]) -> list[str]:
    """Return a line on each label file below ``labels`` without an image file of its name below ``images``."""
    known = {file.relative_to(images).with_suffix("") for file in files}
    written = [file.relative_to(labels) for file in find_files(labels, {".txt"})]
    # Labelling tools leave a `classes.txt` beside the labels.
    alone = [label for label in written if label.with_suffix("") not in known and label.name != "classes.txt"]
    lines = []
    for label in alone:
        others = [file.name for file in (images / label).parent.glob(f"{glob.escape(label.stem)}.*")]
        why = f"{others[0]} is of no kind that is read" if others else "there is no image of this name"
        lines.append(f"{labels.name}/{label.as_posix()}: {why}")
    return lines


def _yolo_labels(file: Path, classes: int | None, keypoints: int = 0) -> list[tuple[int, list[float]]]:
    """Read the boxes of a label file; without a number of ``classes`` any class is valid."""
    marks = []
    lines = read_text(file).splitlines() if file.is_file() else []
    for place, line in enumerate(lines, 1):
        fields = line.split()
        if not fields:
            continue
        try:
            kind, *box = numbers(fields)
            if keypoints and len(box) == 4 + keypoints:
                box = box[:4]
            if len(box) >= 6 and len(box) % 2 == 0:  # a polygon
                if max(map(abs, box)) > _OUTLINE:
                    raise ValueError(
                        f"expected a polygon, or `kpt_shape` in the data.yaml for poses, but got {line!r}"
                    )
                box = _around(box[::2], box[1::2])
            if len(box) != 4 or kind != int(kind) or kind < 0 or (classes is not None and kind >= classes):
                below = f"a class below {classes}" if classes is not None else "a class"
                raise ValueError(f"expected `class cx cy w h` with {below} but got {line!r}")
            if max(map(abs, box)) > _PIXELS:
                raise ValueError(f"expected numbers relative to the image's size but got pixels: {line!r}")
        except ValueError as error:
            raise ValueError(f"its label file, line {place}: {error}") from error
        marks.append((int(kind), box))
    return marks


def _around(x: Sequence[float], y: Sequence[float]) -> list[float]:
    """Return the centre, width and height of the box around a polygon."""
    return [(min(x) + max(x)) / 2, (min(y) + max(y)) / 2, max(x) - min(x), max(y) - min(y)]


def write_yolo(dataset: Dataset | Mapping[str, Dataset], folder: str | Path) -> Dataset:
    """Write sets in the layout that ultralytics trains on: ``images/``, ``labels/`` and a ``data.yaml`` without a path.

    Images are copied; images that are no files, or that EXIF orientation would turn, are written as PNG of the
    stored pixels, because ultralytics turns an image but not its boxes. Files are copied and not linked, because
    ultralytics repairs broken JPEG files in place. Boxes are cut to the image, because ultralytics drops an image
    with a box beyond the border. Crowds are left out, because a label file cannot mark a crowd.

    Args:
        dataset: a set for both training and validation; or sets by their names in ultralytics' YAML, ``train``,
            ``val`` and ``test``, which go to ``images/train`` and so on. The first set stands in for a missing
            ``val`` or ``train``.
        folder: a folder that is new or empty.

    Returns:
        All images in the folder as one set. Its `faults` are those of the given sets, and lines on boxes that were cut
        and on images that could not be read and are left out.

    Raises:
        ValueError: if a set has another name or other classes than the first set, or if two images have one name, as
            the lights of a photograph do: write each light to a folder of its own.
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
    written = _read_yolo([Place(folder / "images")], classes, classes)
    left_out = sum(len(part) + part.left_out for part in parts.values()) - len(written)
    return written.replace(faults=tuple(dict.fromkeys([*faults, *written.faults])), left_out=left_out)


def _stems(dataset: Dataset) -> list[Path]:
    """Return the names of the label files of the samples, without ``.txt``."""
    names = [relative_name(sample.name).as_posix() for sample in dataset.samples]
    found = stems(names)
    if twice := [stem for stem, count in Counter(map(str.casefold, found)).items() if count > 1]:
        raise ValueError(
            f"Expected argument `dataset` to have images of different names but got {twice[0]} twice; the lights of a "
            "photograph go to one folder each."
        )
    return [Path(stem) for stem in found]


def _write_labelled(sample: Sample, folder: Path, stem: Path) -> list[str]:
    """Write one image and its label file; return lines on boxes that had to be cut."""
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
        # The label file comes first: an image without a label file would be taken for one without objects.
        with whole_file(folder / "labels" / f"{stem}.txt") as beside:
            beside.write_text("".join(lines), encoding="utf-8")
        with whole_file(folder / "images" / f"{stem}{source.suffix if source else '.png'}") as beside:
            if source:
                shutil.copyfile(source, beside)
            else:
                picture.save(beside, format="PNG")
    return cut


def _can_be_copied(path: Path) -> bool:
    header = read_header(path)
    return header.orientation == 1 and not header.losses and path.suffix.lower() in WRITTEN_SUFFIXES
