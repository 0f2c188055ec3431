"""Training images: LOL-style folders of pairs, and photographs that are darkened on the fly."""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms.v2 import functional as F

from glare.data.camera import random_night
from glare.data.degrade import generator_for
from glare.files import IMAGE_SUFFIXES
from glare.image import to_float
from glare.reading import find_files, read_header, read_image

#: Names of the two folders of a set of pairs, in any letter case: LOL-v1, many benchmarks, LOL-v2, BasicSR's.
PAIR_FOLDERS = (
    ("low", "high"),
    ("input", "target"),
    ("low", "normal"),
    ("input", "gt"),
    ("low", "gt"),
    ("lq", "gt"),
)
#: What may stand before or behind the common part of the names of two partners: ``low001`` and ``normal001``.
_SIDES = "|".join(sorted({side for pair in PAIR_FOLDERS for side in pair}))
#: Decoded images that each reading process keeps: to decode takes longer than to cut.
DECODED_BYTES = 2**30


def list_images(folder: str | Path) -> list[Path]:
    """Return the image files below ``folder``, sorted by name.

    Raises:
        FileNotFoundError: if there are none.
    """
    files = find_files(folder)
    if not files:
        raise FileNotFoundError(f"No images ({', '.join(sorted(IMAGE_SUFFIXES))}) below {folder}.")
    return files


def list_pairs(root: str | Path) -> list[tuple[Path, Path]]:
    """Return low and normal-light files of a set of pairs, matched by name without suffix (also ``low1``, ``normal1``).

    EXIF orientation is applied to both, here and in `read`.

    Raises:
        FileNotFoundError: if ``root`` has none of the folder pairs in `PAIR_FOLDERS`.
        ValueError: listing the files without a partner, with the same name as another, that are no images, or that
            differ in size from their partner.
    """
    pairs, problems = match_pairs(root)
    if problems:
        raise ValueError(f"{len(problems)} faults in the pairs of {root}:\n  " + "\n  ".join(problems))
    return pairs


def match_pairs(root: str | Path) -> tuple[list[tuple[Path, Path]], list[str]]:
    """Return the sound pairs of `list_pairs`, and a line for each fault: training stops at faults, a test goes on.

    Raises:
        FileNotFoundError: if ``root`` has none of the folder pairs in `PAIR_FOLDERS`.
    """
    names = pair_folders(root)
    if names is None:
        wanted = ", ".join(f"{low}/ and {high}/" for low, high in PAIR_FOLDERS)
        there = ", ".join(sorted(f"{entry.name}/" for entry in Path(root).glob("*/"))) or "no folders"
        raise FileNotFoundError(
            f"{root} holds no pairs of images: expected the folders {wanted}, in any letter case, but got {there}."
        )
    low, high = (_by_name(Path(root) / name) for name in names)
    problems: list[str] = []
    pairs: list[tuple[Path, Path]] = []
    for key in sorted(low.keys() | high.keys()):
        sides = low.get(key, []), high.get(key, [])
        (first, *twice), *_ = sorted(sides, key=len, reverse=True)
        if twice:
            problems += [f"{path} has the same name as {first}" for path in twice]
        elif not all(sides):
            problems.append(f"{first} has no partner")
        elif same_size(pair := (sides[0][0], sides[1][0]), problems):
            pairs.append(pair)
    return pairs, problems


def pair_folders(root: str | Path) -> tuple[str, str] | None:
    """The names of the two folders of pairs in ``root``, as they are spelt there, or None.

    They are one of `PAIR_FOLDERS` in any letter case, or one with something common before or behind both:
    ``test_low`` and ``test_high``.
    """
    spelt = {entry.name.lower(): entry.name for entry in sorted(Path(root).glob("*/"))}
    for low, high in PAIR_FOLDERS:
        if low in spelt and high in spelt:
            return spelt[low], spelt[high]
    for low, high in PAIR_FOLDERS:
        for name in spelt:
            parts = re.split(rf"(?<![a-z]){low}(?![a-z])", name)
            if len(parts) == 2 and (partner := high.join(parts)) in spelt:
                return spelt[name], spelt[partner]
    return None


def _by_name(folder: Path) -> dict[Path, list[Path]]:
    """Return the images below a folder by the name that matches them."""
    files: dict[Path, list[Path]] = {}
    for path in list_images(folder):
        key = path.relative_to(folder).with_name(common_name(path.stem))
        files.setdefault(key, []).append(path)
    return files


def common_name(stem: str) -> str:
    """The part of a name that partners share: ``low001``, ``001_low`` and ``GT_001`` are ``001``."""
    short = re.sub(rf"^({_SIDES})[ _-]*|[ _-]+({_SIDES})$", "", stem, flags=re.IGNORECASE)
    return short or stem


def same_size(pair: tuple[Path, Path], problems: list[str]) -> bool:
    """Tell whether two images have readable headers and the same size; if not, add a line to ``problems``."""
    sizes = [_size(path, problems) for path in pair]
    if None not in sizes and sizes[0] != sizes[1]:
        problems.append(f"{pair[0]} and {pair[1]} differ in size: {sizes[0]}, {sizes[1]}")
    return None not in sizes and sizes[0] == sizes[1]


def _size(path: Path, problems: list[str]) -> tuple[int, int] | None:
    """Width and height of the upright picture from the file's header, or None and a line in ``problems``."""
    try:
        return read_header(path).upright
    except OSError as error:
        problems.append(f"{path} cannot be read: {error}")
        return None


def read(path: str | Path) -> Tensor:
    """An image file as uint8 RGB, (3,H,W), upright; see `glare.reading.read_image`.

    Raises:
        ValueError: naming the file, if it cannot be decoded.
    """
    try:
        pixels = read_image(path, upright=True)
    except (OSError, ValueError) as error:
        raise ValueError(f"Cannot read the image {path}: {str(error).splitlines()[0]}") from error
    return torch.tensor(pixels).permute(2, 0, 1).contiguous()


def read_pair(files: tuple[Path, Path], device: torch.device) -> tuple[Tensor, Tensor]:
    """Read a pair out of `list_pairs`: low and normal-light image, (1,3,H,W) float in [0,1]."""
    low, high = (to_float(read(file).to(device)[None]) for file in files)
    return low, high


class Crops(Dataset[tuple[Tensor, Tensor]]):
    """Endless crops (low, high), each (3,crop,crop) float in [0,1], a function of the seed and the index alone.

    Args:
        pairs: folders of pairs.
        photos: folders of normal-light photographs, which `glare.data.camera.random_night` darkens.
        crop: side of a crop in pixels, a multiple of 4.
        length: number of crops.
        seed: another seed, other crops.
        pairs_share: probability that a crop comes from ``pairs`` when there are both.
        darken: False leaves the photographs as they are, for stage I, which looks at normal light alone.

    Half of the crops are cut from the image as it is, half from the image made smaller (by up to what the crop
    allows): the model sees the noise as it is and the scene as a whole.
    """

    def __init__(
        self,
        pairs: Sequence[str | Path],
        photos: Sequence[str | Path],
        crop: int,
        length: int,
        seed: int = 0,
        pairs_share: float = 0.5,
        darken: bool = True,
    ) -> None:
        if not pairs and not photos:
            raise ValueError("Expected folders of pairs or of photographs but got neither.")
        if crop < 32 or crop % 4:
            raise ValueError(f"Expected argument `crop` to be a multiple of 4 of at least 32 but got {crop}.")
        self.pairs = [pair for root in pairs for pair in list_pairs(root)]
        self.photos = [path for root in photos for path in list_images(root)]
        problems: list[str] = []
        for path in self.photos:
            _size(path, problems)
        if problems:
            raise ValueError(f"{len(problems)} faults in the photographs:\n  " + "\n  ".join(problems))
        self.crop, self.length, self.seed = crop, length, seed
        self.pairs_share = pairs_share if self.pairs and self.photos else float(bool(self.pairs))
        self.darken = darken
        self._decoded: dict[Path, Tensor] = {}
        self._room = DECODED_BYTES

    def __len__(self) -> int:
        return self.length

    def of_side(self, crop: int) -> Crops:
        """Return the same data with crops of another side in pixels."""
        other = copy.copy(self)
        other.crop = crop
        return other

    def files(self, index: int) -> tuple[Path, ...]:
        """Return the files that crop ``index`` is cut from: the two of a pair, or a photograph."""
        return self._files(generator_for(self.seed, index))

    def _files(self, generator: torch.Generator) -> tuple[Path, ...]:
        from_pairs = float(torch.rand((), generator=generator)) < self.pairs_share
        position = float(torch.rand((), generator=generator))
        if from_pairs:
            return self.pairs[int(position * len(self.pairs))]
        return (self.photos[int(position * len(self.photos))],)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        generator = generator_for(self.seed, index)

        def draw(n: int) -> int:
            return int(torch.randint(n, (), generator=generator))

        def uniform() -> float:
            return float(torch.rand((), generator=generator))

        files = self._files(generator)
        images = torch.stack([self._read(file) for file in files])
        height, width = images.shape[2:]
        fit = self.crop / min(height, width)
        scale = max(1.0, fit)
        if uniform() < 0.5:
            smallest = min(1.0, fit)
            scale = scale * (smallest + (1.0 - smallest) * uniform())
        if scale != 1.0:
            size = [max(self.crop, round(side * scale)) for side in (height, width)]
            images = F.resize(images, size, antialias=True)
        top, left = (draw(side - self.crop + 1) for side in images.shape[2:])
        images = images[:, :, top : top + self.crop, left : left + self.crop]
        for axis in (2, 3):
            if draw(2):
                images = images.flip(axis)
        if draw(2):
            images = images.transpose(2, 3)
        images = images.float() / 255.0
        high = images[-1].contiguous()
        darkened = len(images) == 1 and self.darken
        return random_night(high, generator) if darkened else images[0].contiguous(), high

    def _read(self, file: Path) -> Tensor:
        if (image := self._decoded.get(file)) is None:
            image = read(file)
            if image.nbytes <= self._room:
                self._decoded[file] = image
                self._room -= image.nbytes
        return image
