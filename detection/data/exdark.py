"""Reader of the ExDark set in the layout of its distribution.

Loh and Chan, "Getting to Know Low-light Images with the Exclusively Dark Dataset", CVIU 2019. The terms of
ExDark forbid passing on its annotations and lists, so this module holds the reader alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from detection.data.classes import EXDARK_CLASSES, check_classes, class_map
from detection.data.core import Dataset, Sample, file_sample, gathered, inside_image, numbers
from glare.reading import read_header, read_text

LIGHTS = (
    *("Low", "Ambient", "Object", "Single", "Weak", "Strong", "Screen", "Window", "Shadow", "Twilight"),
)
"""The ten types of light, in the order in which ExDark numbers the types from 1."""

PLACES = ("indoor", "outdoor")
SPLITS = ("train", "val", "test")

IMAGES, ANNOTATIONS, LIST = "ExDark", "ExDark_Annno", "imageclasslist.txt"  # three n's, as distributed
_HEADER = "% bbGt version=3"


class ExDark(Dataset):
    """The ExDark set, or any set in its layout; only the headers of the images are read, for their sizes.

    The images are those of the split in the order of the list, or of the file of names. Every sample has its `light`
    (one of `LIGHTS`), its `place` and its `category` (the class of its folder). Boxes belong to the stored pixels, so
    EXIF orientation turns neither boxes nor pixels. Images without boxes stay. The `faults` name images that are left
    out because a file or an annotation is missing or unreadable, and count the files that the list does not name. The
    `faults` also name images whose boxes were cut to the image, or dropped because the class is unknown or nothing of
    the box lies inside; such images stay.

    Args:
        root: the folder with ``ExDark/<class>/<image>``, ``ExDark_Annno/<class>/<image>.txt`` (three n's) and
            ``imageclasslist.txt``. Names match exactly, or else without regard to case.
        split: ``train``, ``val`` or ``test`` as in ``imageclasslist.txt``, or a file with the name of one image
            per line, with or without folder and ending, for a custom split.
        classes: the classes to keep, matched by name; boxes of any other class are left out.

    Raises:
        FileNotFoundError: if a part of the layout is not there.
        ValueError: if there is no such split, the list is not ExDark's, or the set has none of `classes`.

    >>> import tempfile
    >>> from PIL import Image
    >>> root = Path(tempfile.mkdtemp())
    >>> for folder in (IMAGES, ANNOTATIONS):
    ...     (root / folder / "Cat").mkdir(parents=True)
    >>> Image.new("RGB", (60, 40)).save(root / IMAGES / "Cat" / "a.png")
    >>> marks = "% bbGt version=3\\nCat 5 6 10 12 0 0 0 0 0 0 0\\n"
    >>> _ = (root / ANNOTATIONS / "Cat" / "a.png.txt").write_text(marks)
    >>> _ = (root / LIST).write_text("Name | Class | Light | In/Out | Train/Val/Test\\na.png 6 1 1 3\\n")
    >>> (sample,) = ExDark(root, "test").samples
    >>> sample.light, sample.place, sample.boxes.tolist()
    ('Low', 'indoor', [[5.0, 6.0, 15.0, 18.0]])
    """

    def __init__(
        self, root: str | Path, split: str | Path, *, classes: Sequence[str] = EXDARK_CLASSES
    ) -> None:
        read = _read(Path(root), split, classes)
        super().__init__(read.samples, read.classes, read.note, read.faults, read.left_out, read.names)


def _read(root: Path, split: str | Path, classes: Sequence[str]) -> Dataset:
    for part in (IMAGES, ANNOTATIONS, LIST):
        if not (root / part).exists():
            raise FileNotFoundError(
                f"Expected {IMAGES}, {ANNOTATIONS} (three n's) and {LIST} in {root} but there is no {part}."
            )
    check_classes(EXDARK_CLASSES, classes, root)
    to_label = class_map(EXDARK_CLASSES, classes)
    faults: list[str] = []
    images, annotations = _files(root / IMAGES), _files(root / ANNOTATIONS)
    listed = _read_list(root / LIST, images, faults)
    chosen = _chosen(listed, split, faults)
    samples: list[Sample] = []
    told: list[tuple[str, str]] = []
    for entry in chosen:
        try:
            path = _find(images, entry.name)
            marks = _boxes(_find(annotations, f"{entry.name}.txt"))
            header = read_header(path)
        except (OSError, ValueError) as error:
            faults.append(f"{entry.name}: {error}")
            continue
        own = class_map([mark.name for mark in marks], EXDARK_CLASSES)
        if unknown := {mark.name: None for mark, label in zip(marks, own, strict=True) if label < 0}:
            faults.append(
                f"{entry.name}: dropped {(own < 0).sum()} of {len(marks)} boxes, of unknown class "
                + ", ".join(unknown)
            )
        kept = [
            (mark, int(to_label[label]))
            for mark, label in zip(marks, own, strict=True)
            if label >= 0 and to_label[label] >= 0
        ]
        sample, mended = inside_image(
            file_sample(
                # The spelling on the disk, so that the name leads to the file.
                path.relative_to(root / IMAGES).as_posix(),
                path,
                [mark.box for mark, _ in kept],
                [label for _, label in kept],
                [mark.ignore for mark, _ in kept],
            ),
            *header.size,
        )
        samples.append(replace(sample, light=entry.light, place=entry.place, category=entry.category))
        faults += mended
        if header.losses:
            told.append((sample.name, header.losses))
    which = split if split in SPLITS else f"the split {Path(split).name}"
    return Dataset(
        tuple(samples),
        tuple(classes),
        note=f"ExDark, {which}",
        faults=(*faults, *gathered(told)),
        left_out=len(chosen) - len(samples),
        names=EXDARK_CLASSES,
    )


@dataclass(frozen=True)
class _Entry:
    """Line of ``imageclasslist.txt``, with names in place of its numbers."""

    name: str  # class/image
    category: str
    light: str
    place: str
    split: str


@dataclass(frozen=True)
class _Mark:
    name: str
    box: tuple[float, float, float, float]  # x1 y1 x2 y2
    ignore: bool


def _read_list(file: Path, images: dict[str, Path], faults: list[str]) -> list[_Entry]:
    entries: dict[str, _Entry] = {}
    faulty: set[str] = set()
    for number, line in enumerate(read_text(file, "replace").splitlines(), 1):
        fields = line.split()
        if not fields or (number == 1 and not fields[-1].isdigit()):  # the header
            continue
        try:
            entry = _entry(fields)
        except ValueError as error:
            faults.append(f"{LIST}, line {number}: {error}")
            faulty.add(fields[0])
            continue
        image = _named(images, entry.name)
        key = entry.name.casefold() if image is None else str(image)
        if key in entries:
            faults.append(f"{LIST}, line {number}: {entry.name} is listed before; the first line counts")
        entries.setdefault(key, entry)
    if not entries:
        raise ValueError(f"Expected lines `name class light in/out split` in {file} but got none.")
    unlisted = {image for image in images.values() if str(image) not in entries and image.name not in faulty}
    if unlisted:
        first = min(unlisted)
        faults.append(
            f"{LIST}: no line for {len(unlisted)} of the files in {IMAGES}, such as {first.parent.name}/{first.name}"
        )
    return list(entries.values())


def _entry(fields: Sequence[str]) -> _Entry:
    if len(fields) != 5:
        raise ValueError(f"expected `name class light in/out split` but got {' '.join(fields)!r}")
    meanings = (EXDARK_CLASSES, LIGHTS, PLACES, SPLITS)
    category, light, place, split = (
        _meaning(what, field, names)
        for what, field, names in zip(
            ("class", "light", "in/out", "split"), fields[1:], meanings, strict=True
        )
    )
    return _Entry(f"{category}/{fields[0]}", category, light, place, split)


def _meaning(what: str, field: str, names: Sequence[str]) -> str:
    if not field.isdecimal() or not 1 <= int(field) <= len(names):
        raise ValueError(f"unknown {what} {field!r}, expected 1 to {len(names)}")
    return names[int(field) - 1]


def _chosen(listed: Sequence[_Entry], split: str | Path, faults: list[str]) -> list[_Entry]:
    if split in SPLITS:
        return [entry for entry in listed if entry.split == split]
    if not Path(split).is_file():
        raise ValueError(
            f"Expected argument `split` to be {', '.join(SPLITS)} or a file of names but got {str(split)!r}."
        )
    known: dict[str, _Entry] = {}
    for entry in listed:
        for key in _keys(entry.name):
            known.setdefault(key, entry)
    chosen: dict[str, _Entry] = {}
    for line in filter(None, map(str.strip, read_text(Path(split)).splitlines())):
        found = next((known[key] for key in _keys(line.replace("\\", "/")) if key in known), None)
        if found is None:
            faults.append(f"{Path(split).name}: {line} is not in {LIST}")
        else:
            chosen[found.name] = found
    return list(chosen.values())


def _keys(name: str) -> Iterable[str]:
    """Return the possible names of an image in a file of names, the most precise first."""
    last = name.rpartition("/")[2]
    names = "/".join(name.split("/")[-2:]), last, Path(last).stem
    return [spelt for key in names for spelt in (key, key.casefold())]


def _files(folder: Path) -> dict[str, Path]:
    """Map names without regard to case, and exact names, to files; two files may differ in case alone."""
    exact = {f"{file.parent.name}/{file.name}": file for file in sorted(folder.glob("*/*"))}
    return {name.casefold(): file for name, file in exact.items()} | exact


def _named(files: dict[str, Path], name: str) -> Path | None:
    """Find one of `_files` by its exact name, or else without regard to case."""
    return files.get(name, files.get(name.casefold()))


def _find(files: dict[str, Path], name: str) -> Path:
    file = _named(files, name)
    if file is None:
        raise FileNotFoundError(f"there is no {name.rpartition('/')[2]}")
    return file


def _boxes(file: Path) -> list[_Mark]:
    """Read the boxes of a `bbGt` file, version 3: class, left, top, width, height and seven more numbers.

    The sixth of these seven is the mark "ignore" of the format (Dollár's toolbox); in ExDark all seven are 0.
    """
    try:
        lines = read_text(file).splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"its annotation is no text: {error}") from error
    if lines and lines[0].strip() != _HEADER:
        raise ValueError(f"expected an annotation that starts with `{_HEADER}` but got {lines[0][:40]!r}")
    marks = []
    for number, line in enumerate(lines[1:], 2):
        fields = line.split()
        if not fields:
            continue
        try:
            if len(fields) != 12:
                raise ValueError(f"expected `class left top width height` and seven numbers but got {line!r}")
            left, top, width, height, *rest = numbers(fields[1:])
        except ValueError as error:
            raise ValueError(f"its annotation, line {number}: {error}") from error
        marks.append(_Mark(fields[0], (left, top, left + width, top + height), rest[5] != 0))
    return marks
