"""Test images that a model has seen in training, found by what they show and by name.

Weights carry a fingerprint of each reference image they were trained on (`glare.weights.trained_on`), so nobody needs
the training images to ask. A fingerprint is 64 bits: the signs of the 64 lowest frequencies of a square's luma, the
mean aside, which stay as they are when an image is compressed, resized, brightened or darkened (a perceptual hash by
the DCT, as in Zauner, "Implementation and Benchmarking of Perceptual Image Hash Functions", 2010). Of a training image
the central square is kept; of a test image every square along its longer side is asked, so that the whole photograph
gives itself away where a window of its full height was trained on.

Found as well: another shot from the same tripod. Not found: images that are mirrored, turned, or cut by more than some
3 % of their shorter side; what has next to no detail; windows off the centre of a training image that was wider
itself; and, one in five, what was taken with so little light that noise covers it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from glare.data.pairs import read

BITS = 64
#: Pictures whose fingerprints differ in no more bits are the same. Measured on LOL-v1, BSDS500 and COCO: a window and
#: its photograph, compressed, resized or brightened, differ in 0 to 8 bits, strangers in 12 and more.
NEAR = 8
#: Side in pixels at which a square is looked at.
SIDE = 32

_WAVES = torch.cos(math.pi / SIDE * (torch.arange(SIDE) + 0.5) * torch.arange(SIDE)[:, None])
_LOWEST = sorted((y * y + x * x, y, x) for y in range(SIDE) for x in range(SIDE))[1 : BITS + 1]


@dataclass(frozen=True)
class Overlap:
    """A test image, and the training image that is the same picture or has the same name.

    Attributes:
        file: the test image.
        trained: name of the training image.
        bits: how many of 64 bits their fingerprints differ in.
    """

    file: Path
    trained: str
    bits: int

    @property
    def by(self) -> Literal["picture", "name"]:
        """Say how the overlap was found; a name alone proves nothing where images are called by numbers."""
        return "picture" if self.bits <= NEAR else "name"


def fingerprint(image: Tensor) -> str:
    """Return the fingerprint of an image, (3,H,W) uint8 or float: 16 hexadecimal digits of its central square."""
    squares = _fingerprints(image)
    return np.packbits(squares[len(squares) // 2].numpy()).tobytes().hex()


def fingerprints(files: Iterable[Path]) -> list[str]:
    """Return a line for each training image: its `fingerprint` and its name without folder: ``c3a90f... 17.png``.

    Raises:
        ValueError: naming the file, if one cannot be decoded.
    """
    return [f"{fingerprint(read(file))} {file.name}" for file in files]


def find_overlaps(files: Sequence[Path], trained: Sequence[str]) -> list[Overlap]:
    """Return the test images that were trained on, each with the training image that is nearest to it.

    Args:
        files: test images, the references of pairs or what there is.
        trained: lines of `fingerprints`, such as `glare.weights.trained_on` gives.

    Raises:
        ValueError: naming the file, if one cannot be decoded; if ``trained`` holds other lines.
    """
    if not trained:
        return []
    lines = [re.fullmatch(r"([0-9a-f]{16}) (.+)", line) for line in trained]
    if None in lines:
        raise ValueError(
            "Expected argument `trained` to hold lines of 16 hexadecimal digits and a name but got "
            f"{trained[lines.index(None)]!r}."
        )
    digits, names = zip(*(line.groups() for line in lines if line), strict=True)
    packed = np.frombuffer(bytes.fromhex("".join(digits)), dtype=np.uint8)
    known = torch.from_numpy(np.unpackbits(packed)).view(-1, BITS).float()
    numbers: dict[str, list[int]] = {}
    for number, name in enumerate(names):
        numbers.setdefault(Path(name).stem.lower(), []).append(number)
    found = []
    for file in tqdm(files, desc="overlap", unit="image", disable=None):
        bits = torch.cdist(_fingerprints(read(file)).float(), known, p=0).amin(0)
        same_name = numbers.get(file.stem.lower(), [])
        candidates = range(len(names)) if bits.min() <= NEAR else same_name
        if candidates:
            nearest = min(candidates, key=lambda number: float(bits[number]))
            found.append(Overlap(file, names[nearest], int(bits[nearest])))
    return found


def _fingerprints(image: Tensor) -> Tensor:
    """Return the bits of every square along the longer side, in steps of 1/32 of the shorter: (N,64) bool."""
    grey = (image.float() * image.new_tensor([0.299, 0.587, 0.114], dtype=torch.float32).view(3, 1, 1)).sum(0)
    shorter = min(grey.shape)
    size = [max(SIDE, round(side * SIDE / shorter)) for side in grey.shape]
    small = F.interpolate(grey[None, None], size, mode="bilinear", antialias=True)[0, 0]
    squares = small.unfold(0, SIDE, 1).unfold(1, SIDE, 1).flatten(0, 1)
    frequencies = _WAVES @ squares @ _WAVES.T
    return torch.stack([frequencies[:, y, x] for _, y, x in _LOWEST], 1) > 0
