"""Descriptions of a set in YOLO's layout: which images are a split, and what the class numbers mean."""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml  # type: ignore[import-untyped]

from detection.data.classes import coco_name
from detection.data.core import find_below
from glare.files import IMAGE_SUFFIXES
from glare.reading import read_text

SPLITS = ("train", "val", "test")
"""The parts of a set in ultralytics' ``data.yaml``."""
_LABELS = {"images": "labels", "Images": "Labels", "IMAGES": "LABELS"}
"""Folder of the labels for each spelling of the folder of images."""


@dataclass(frozen=True)
class Place:
    """Images of a split: all images below a folder, or some of them."""

    folder: Path
    listed: tuple[Path, ...] | None = None


@dataclass(frozen=True)
class Description:
    """Description of a set in a file; empty where there is no such file."""

    file: Path  # the path, also of a missing file
    content: dict[str, Any]
    explicit: bool = False  # whether the user named the file

    @property
    def folder(self) -> Path:
        """Return the folder below which the set lies."""
        return self.file.parent

    @property
    def splits(self) -> tuple[str, ...]:
        """Return the splits that the description names."""
        return tuple(split for split in SPLITS if self.content.get(split))

    @property
    def nameless(self) -> bool:
        """Return whether the description gives the number of the classes but no names."""
        return "nc" in self.content and self.content.get("names") is None

    @property
    def keypoints(self) -> int:
        """Return how many numbers follow the box of a pose."""
        shape = self.content.get("kpt_shape")
        return int(np.prod(shape)) if isinstance(shape, list) and shape else 0

    def places(self, split: str) -> list[Place]:
        """Find the images of a split; raise FileNotFoundError if there are none."""
        base = self.folder / _slashes(self.content.get("path") or "")
        if not base.is_dir():  # a path on another machine
            base = self.folder
        named = self.content[split]
        found = []
        for name in named if isinstance(named, list) else [named]:
            place = _place(base, _slashes(name))
            if place is None:
                raise FileNotFoundError(
                    f"Expected images at {named}, {split} of {self.file}, but there are none at {name}."
                )
            found.append(place)
        return found


def _slashes(name: object) -> str:
    return str(name).replace("\\", "/")


def _place(base: Path, name: str) -> Place | None:
    # Roboflow's paths start one folder too high; CVAT's paths start with a folder `data` that does not exist.
    tried = [base / name, base / name.removeprefix("../"), base / name.removeprefix("data/")]
    for path in tried:
        # Some descriptions name the folder above the folder of the images.
        for folder in (path / "images", path):
            if folder.is_dir():
                return Place(folder)
        if path.suffix == ".txt" and path.is_file():
            lines = map(_slashes, map(str.strip, read_text(path).splitlines()))
            files = [_listed_file(path.parent, base, line) for line in lines if line]
            if files and not any(file.is_file() for file in files):
                raise FileNotFoundError(
                    f"Expected the images that {path} lists, but {files[0]} is not there."
                )
            return _some(files)
        if path.is_file():
            return _some([path])
    for pattern in map(str, tried):
        if glob.has_magic(pattern) and (found := glob.glob(pattern, recursive=True)):
            return _some([file for file in map(Path, sorted(found)) if file.suffix.lower() in IMAGE_SUFFIXES])
    return None


def _listed_file(beside: Path, base: Path, line: str) -> Path:
    """Find the image that a line of a list names, below the list's folder, the set's or the working folder."""
    short = line.removeprefix("./")
    tried = [beside / short, base / short, base / short.removeprefix("data/"), Path(line)]
    return next((path for path in tried if path.is_file()), find_below(base, short))


def _some(files: Sequence[Path]) -> Place | None:
    if not files:
        return None
    return Place(Path(os.path.commonpath([file.parent for file in files])), tuple(dict.fromkeys(files)))


def described(root: Path) -> Description:
    """Find the description of a set: the file itself, or the file in a folder that ultralytics would take."""
    if not root.is_dir():
        return Description(root, _content(root), explicit=True) if root.is_file() else Description(root, {})
    found: list[Description] = []
    broken: list[ValueError] = []
    own = sorted(file for end in ("*.yaml", "*.yml", "*.data") for file in root.glob(end))
    for file in own or sorted(file for end in ("*/*.yaml", "*/*.yml") for file in root.glob(end)):
        if file.name.startswith("._"):
            continue
        try:
            content = _content(file)
        except ValueError as error:
            broken.append(error)
            continue
        # Other YAML files, such as the settings of a training, are no descriptions.
        if content.keys() & {"names", "nc"} or (content.keys() & set(SPLITS) and file.name == "data.yaml"):
            found.append(Description(file, content))
    if broken and (not found or root / "data.yaml" not in [one.file for one in found]):
        raise broken[0]
    if not found:
        return Description(root / "data.yaml", {})
    usual = [one for one in found if one.file.name == "data.yaml" or one.file.stem == root.resolve().name]
    chosen = (usual or found)[0]
    for other in [] if usual else found:
        if any(other.content.get(split) != chosen.content.get(split) for split in SPLITS):
            raise ValueError(
                f"Expected one description of {root} but {chosen.file.name} and {other.file.name} differ in where the "
                "images are: name one of them instead of the folder."
            )
    return chosen


def _content(file: Path) -> dict[str, Any]:
    text = read_text(file)
    if file.suffix == ".data":  # of Darknet: a key, an equals sign and a value on each line
        pairs = (line.partition("=") for line in text.splitlines() if "=" in line)
        ours = {"valid": "val", "classes": "nc"}
        said: dict[str, Any] = {ours.get(key.strip(), key.strip()): value.strip() for key, _, value in pairs}
        named = _slashes(said.pop("names", ""))
        for names in (file.parent / named, file.parent / named.removeprefix("data/")):
            if names.is_file():
                said["names"] = _lines(names)
        return said
    try:
        content: Any = yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        raise ValueError(f"Expected YAML in {file} but got stuck: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"Expected ultralytics' description of a set in {file} but got {content!r}.")
    if "validation" in content and "val" not in content:
        content["val"] = content.pop("validation")
    return content


def names_of(
    root: Path, about: Description, places: Sequence[Place], told: list[str]
) -> Sequence[str] | None:
    """Return the names of the class numbers, None if no file has names; add messages to ``told``."""
    named: dict[Path, list[str]] = {}
    if about.content.get("names") is not None:
        named[about.file] = _names_in(about)
    folders = [about.folder, about.folder / "labels", about.folder / "images"]
    folders += [folder for place in places for folder in (place.folder, labels_of(place.folder))]
    folders += [below for folder in folders[1:] for below in sorted(folder.glob("*/"))]
    for folder in dict.fromkeys(folders):
        files = [folder / "classes.txt", folder / "_darknet.labels", *sorted(folder.glob("*.names"))]
        named |= {file: _lines(file) for file in files if file.is_file()}
    for file in sorted([*about.folder.glob("*.yaml"), *about.folder.glob("*.yml")]):
        with suppress(ValueError):  # the file is no description, or an empty one
            if file not in named and "names" in (content := _content(file)):
                named[file] = _names_in(Description(file, content))
    if not named:
        return _names_in(about) if about.content else None
    (first, names), *others = named.items()
    for file, differ in others:
        if list(map(coco_name, differ)) == list(map(coco_name, names)):
            continue
        says = [
            f"{one.name} says {len(what)}: {', '.join(what[:5])}"
            for one, what in ((first, names), (file, differ))
        ]
        if not about.explicit:
            raise ValueError(
                f"Expected one meaning of the class numbers in {root} but {'; '.join(says)}. Name the description "
                "that is right instead of the folder, or remove the other."
            )
        told.append(f"{'; '.join(says)}: the first counts")
    return names


def _lines(file: Path) -> list[str]:
    names = [line.strip() for line in read_text(file).splitlines()]
    while names and not names[-1]:
        names.pop()
    return names


def unnamed(about: Description) -> str:
    """Return how a message speaks of a description without names."""
    return f"{about.file}, which has no list `names` but only their number,"


def _names_in(about: Description) -> list[str]:
    names = about.content.get("names")
    if names is None and "nc" in about.content:  # names that ultralytics makes up
        try:
            return [f"class_{number}" for number in range(int(about.content["nc"]))]
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"Expected a number `nc` in {about.file} but got {about.content['nc']!r}."
            ) from error
    if isinstance(names, dict):
        by_number = {int(number): name for number, name in names.items()}  # quoted numbers too
        if sorted(by_number) != list(range(len(by_number))):
            raise ValueError(
                f"Expected the numbers of {about.file} to be 0 to {len(names) - 1} but got {list(names)}."
            )
        names = [by_number[number] for number in sorted(by_number)]
    if not isinstance(names, list) or not names:
        raise ValueError(f"Expected a list `names` in {about.file} but got {names!r}.")
    if str(about.content.get("nc", len(names))) != str(len(names)):
        raise ValueError(
            f"Expected as many `names` as `nc` says in {about.file} but got {len(names)} and {about.content['nc']}."
        )
    return [str(name) for name in names]


def labels_of(path: Path) -> Path:
    """Return the labels' path of an image or a folder: its path with ``labels`` for the last ``images``."""
    parts = list(path.parts)
    for place, part in reversed(list(enumerate(parts))):
        if part in _LABELS:
            parts[place] = _LABELS[part]
            break
    return Path(*parts)
