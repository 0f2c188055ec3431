"""Reader of test sets of enhancement as distributed: pairs of a dark and a well-lit image, or dark images alone.

LOL-v1: Wei et al., BMVC 2018. LOL-v2: Yang et al., IEEE TIP 2021. LSRW: Hai et al., JVCIR 2023.
SICE: Cai et al., IEEE TIP 2018.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from itertools import combinations
from pathlib import Path

from detection.data.core import Dataset, Sample, file_sample, gathered, load_image
from glare.data.pairs import common_name, match_pairs, pair_folders, same_size
from glare.files import IMAGE_SUFFIXES
from glare.reading import left_alongside, lossy_form, open_image, read_header

#: Folders of training images in these sets, in lower case. Such a folder is read only if it is named itself.
_TRAINING = {"our485", "train", "training data"}
#: SICE's folder of references.
_LABEL = "label"


def read_test_sets(*roots: str | Path) -> Dataset:
    """Return all sound images below some folders that an enhancer can be tested on.

    A folder with two of `glare.data.pairs.PAIR_FOLDERS`, such as ``low`` and ``high``, holds pairs. A folder with
    ``Label``, SICE's references, holds pairs too: each reference has a folder of exposures beside ``Label``, and the
    exposures darker than the middle one are paired with the reference. Any other folder that holds images is a set
    without references. Folders of training images (``our485``, ``Train``, ``Training data``) are skipped unless
    `roots` names them.

    Args:
        roots: folders of these kinds, or folders above several, such as ``LOLv2`` or ``LSRW/Eval``.

    Returns:
        Samples without boxes. The `light` of a sample is the name of its set: the name of the root and the folders
        below. Images are left out and listed in `faults` if they have no partner, differ from their partner in size,
        have a header that cannot be read, or are stored with loss while the reference is not.

    Raises:
        FileNotFoundError: if a folder is missing or holds no image.
        ValueError: if two sets have one name, or if two folders beside each other hold images of the same names and
            sizes: such folders may be the two sides of pairs under other names.

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
    told: list[tuple[str, str]] = []
    faults: list[str] = []
    names: set[str] = set()
    for root in map(Path, roots):
        sets = [folder for folder in _folders(root) if _is_set(folder)]
        if not sets:
            raise FileNotFoundError(f"Expected a folder with images at {root} but there is none.")
        _check_sides(sets)
        for folder in sets:
            whole = folder.resolve().relative_to(root.resolve().parent)
            name = (whole if folder != root else Path(root.resolve().parent.name) / whole).as_posix()
            if name in names:
                raise ValueError(f"Expected sets of different names but got {name} twice.")
            names.add(name)
            pairs, problems = _pairs(folder)
            samples += [_sample(folder, name, *pair) for pair in pairs if _alike(pair, problems)]
            faults += [problem.replace(f"{root}/", "") for problem in problems]
            told += [(file.name, losses) for pair in pairs for file, losses in _losses(pair)]
    # Each fault so far is an image, or a pair, that cannot be tested on.
    left_out = len(faults)
    faults += [line for root in map(Path, roots) for line in left_alongside(root)]
    return Dataset(tuple(samples), (), faults=(*faults, *gathered(told)), left_out=left_out)


def _folders(root: Path, above: tuple[Path, ...] = ()) -> Iterator[Path]:
    """Yield ``root`` and the folders below, except folders inside a set of pairs and links to a folder above."""
    yield root
    place = root.resolve()
    if not root.is_dir() or place in above or pair_folders(root) or _label(root):
        return
    for folder in sorted(root.iterdir()):
        if folder.is_dir() and folder.name.lower() not in _TRAINING:
            yield from _folders(folder, (*above, place))


def _check_sides(sets: Sequence[Path]) -> None:
    """Raise ValueError where two folders look like the two sides of pairs."""
    alone = [folder for folder in sets if not pair_folders(folder) and _label(folder) is None]
    for one, other in combinations(alone, 2):
        if one.parent != other.parent:
            continue
        first, second = (
            {common_name(file.stem).lower(): file for file in _images(side)} for side in (one, other)
        )
        shared = sorted(first.keys() & second.keys())
        if 2 * len(shared) < min(len(first), len(second)) or not shared:
            continue
        problems: list[str] = []
        if all(same_size((first[key], second[key]), problems) for key in shared[:5]):
            raise ValueError(
                f"Expected sets of different images but those in {one} and {other.name}/ have the same names and "
                "sizes. If they are the two sides of pairs, call the folders low/ and high/; if they are two sets, "
                "name each of the folders on its own."
            )


def _losses(pair: tuple[Path, Path | None]) -> Iterator[tuple[Path, str]]:
    """Yield the files of which something is lost on reading, and what that is."""
    for file in pair:
        with suppress(OSError):  # loading the file reports the error
            if file is not None and (losses := read_header(file).losses):
                yield file, losses


def _is_set(folder: Path) -> bool:
    return folder.is_dir() and bool(pair_folders(folder) or _label(folder) or _images(folder))


def _images(folder: Path) -> list[Path]:
    return sorted(
        file
        for file in folder.iterdir()
        if file.suffix.lower() in IMAGE_SUFFIXES and not file.name.startswith("._")
    )


def _label(folder: Path) -> Path | None:
    found = [f for f in folder.iterdir() if f.name.lower() == _LABEL and f.is_dir() and _images(f)]
    return found[0] if found else None


def _pairs(folder: Path) -> tuple[Sequence[tuple[Path, Path | None]], list[str]]:
    """Return the pairs of a set, with None for a missing reference, and a line on each unsound pair."""
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
    """Return the sort key of one of SICE's exposures, which are numbered from the darkest."""
    return (int(file.stem), "") if file.stem.isdecimal() else (0, file.stem)


def _alike(pair: tuple[Path, Path | None], problems: list[str]) -> bool:
    """Return whether a pair can be compared: not a lossy file with a lossless reference, by the files' contents."""
    low, reference = pair
    if reference is None:
        return True
    problem = worse_stored(low, reference)
    problems += [problem] * bool(problem)
    return not problem


def worse_stored(file: Path, reference: Path) -> str:
    """Return a line if a file, by its content, was stored with loss and its reference without; otherwise nothing.

    Raises:
        OSError: if a file cannot be read.
    """
    with open_image(file) as image, open_image(reference) as clean:
        form = lossy_form(image)
        return f"{file} is a {form}, {reference} is none" if form and not lossy_form(clean) else ""


def _sample(folder: Path, name: str, low: Path, reference: Path | None) -> Sample:
    names = pair_folders(folder)
    name_of = low.relative_to(folder / names[0] if names else folder).as_posix()
    alone = file_sample(name_of, low, [], [], upright=True)
    if reference is None:
        return replace(alone, light=name)
    return replace(
        alone, light=name, reference=partial(load_image, reference, upright=True), reference_path=reference
    )
