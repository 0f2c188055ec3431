"""Test sets of enhancement as they are distributed: pairs of a dark and a well-lit image, or dark images alone.

LOL-v1: Wei et al., BMVC 2018. LOL-v2: Yang et al., IEEE TIP 2021. LSRW: Hai et al., JVCIR 2023.
SICE: Cai et al., IEEE TIP 2018.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from detection.data.core import Dataset, Sample, file_sample, load_image, open_image
from glare.data.pairs import match_pairs, pair_folders, same_size
from glare.files import IMAGE_SUFFIXES

#: Folders of training images in the sets below, in lower case. They are tested on where they are named, not in passing.
_TRAINING = {"our485", "train", "training data"}
#: SICE's folder of references.
_LABEL = "label"


def read_test_sets(*roots: str | Path) -> Dataset:
    """Return all images below some folders that an enhancer can be tested on, the sound ones.

    A folder with ``low`` and ``high``, ``input`` and ``target`` or ``Low`` and ``Normal`` holds pairs; so does one
    with ``Label``, SICE's references, of which each has a folder of exposures beside it: those darker than the middle
    one are paired with it. Any other folder that holds images is a set without references. Folders of training
    images (``our485``, ``Train``, ``Training data``) are passed over unless they are named themselves.

    Args:
        roots: a folder of one of these kinds, or one above several, such as ``LOLv2`` or ``LSRW/Eval``.

    Returns:
        Samples without boxes; their `light` is the set they are in: the name of its root and the folders below. Not
        among them, and listed in `faults`: images without a partner, of another size than it, that cannot be read
        as far as their headers go, or are a JPEG where the reference is lossless.

    Raises:
        FileNotFoundError: if there is no such folder, or no image in it.
        ValueError: if two sets have one name.

    >>> import tempfile
    >>> from PIL import Image
    >>> root = Path(tempfile.mkdtemp()) / "eval15"
    >>> for folder in ("low", "high"):
    ...     (root / folder).mkdir(parents=True)
    ...     Image.new("RGB", (60, 40)).save(root / folder / "1.png")
    >>> (sample,) = read_test_sets(root).samples
    >>> sample.name, sample.reference().shape
    ('1.png', (40, 60, 3))
    """
    samples: list[Sample] = []
    faults: list[str] = []
    names: set[str] = set()
    for root in map(Path, roots):
        sets = [folder for folder in _folders(root) if _is_set(folder)]
        if not sets:
            raise FileNotFoundError(f"Expected a folder with images at {root} but there is none.")
        for folder in sets:
            whole = folder.resolve().relative_to(root.resolve().parent)
            name = (whole if folder != root else Path(root.resolve().parent.name) / whole).as_posix()
            if name in names:
                raise ValueError(f"Expected sets of different names but got {name} twice.")
            names.add(name)
            pairs, problems = _pairs(folder)
            samples += [_sample(folder, name, *pair) for pair in pairs if _alike(pair, problems)]
            faults += [problem.replace(f"{root}/", "") for problem in problems]
    # A line is told of each image, or pair, that cannot be tested on.
    return Dataset(tuple(samples), (), faults=tuple(faults), left_out=len(faults))


def _folders(root: Path) -> Iterator[Path]:
    """``root`` and the folders below, but not those inside a set of pairs."""
    yield root
    if not root.is_dir() or pair_folders(root) or _label(root):
        return
    for folder in sorted(root.iterdir()):
        if folder.is_dir() and folder.name.lower() not in _TRAINING:
            yield from _folders(folder)


def _is_set(folder: Path) -> bool:
    return folder.is_dir() and bool(pair_folders(folder) or _label(folder) or _images(folder))


def _images(folder: Path) -> list[Path]:
    return sorted(file for file in folder.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES)


def _label(folder: Path) -> Path | None:
    found = [f for f in folder.iterdir() if f.name.lower() == _LABEL and f.is_dir() and _images(f)]
    return found[0] if found else None


def _pairs(folder: Path) -> tuple[Sequence[tuple[Path, Path | None]], list[str]]:
    """The pairs of a set, without a reference where there is none, and what is wrong with the rest."""
    if pair_folders(folder):
        return match_pairs(folder)
    label = _label(folder)
    if label is None:
        return [(file, None) for file in _images(folder)], []
    pairs: list[tuple[Path, Path]] = []
    problems: list[str] = []
    for reference in _images(label):
        scene = folder / reference.stem
        exposures = sorted(_images(scene), key=_number) if scene.is_dir() else []
        if not exposures:
            problems.append(f"{reference} has no exposures in {scene}")
        darker = exposures[: max(1, (len(exposures) - 1) // 2)]
        pairs += [pair for low in darker if same_size(pair := (low, reference), problems)]
    return pairs, problems


def _number(file: Path) -> tuple[int, str]:
    """SICE's exposures are numbered, the darkest first."""
    return (int(file.stem), "") if file.stem.isdecimal() else (0, file.stem)


def _alike(pair: tuple[Path, Path | None], problems: list[str]) -> bool:
    """Whether no JPEG is compared with a lossless reference; by what the files hold, whatever they are called."""
    low, reference = pair
    if reference is None or not is_jpeg(low) or is_jpeg(reference):
        return True
    problems.append(f"{low} is a JPEG, {reference} is none")
    return False


def is_jpeg(file: Path) -> bool:
    """Whether a file holds a JPEG.

    Raises:
        OSError: if it cannot be read.
    """
    with open_image(file) as image:
        return image.format == "JPEG"


def _sample(folder: Path, name: str, low: Path, reference: Path | None) -> Sample:
    names = pair_folders(folder)
    alone = file_sample(low.relative_to(folder / names[0] if names else folder).as_posix(), low, [], [])
    if reference is None:
        return replace(alone, light=name)
    return replace(alone, light=name, reference=partial(load_image, reference), reference_path=reference)
