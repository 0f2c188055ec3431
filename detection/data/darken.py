"""Simulation of little light: a labelled set is darkened when it is loaded, or written to files."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from tqdm import tqdm

from detection.data.coco import image_entry, read_coco, write_entries
from detection.data.core import Dataset, Pixels, Sample, relative_name
from detection.data.phone import phone
from glare.data.degrade import LEVELS, degrade, generator_for, sample_cast, sample_exposure
from glare.files import whole_file
from glare.reading import open_image

NIGHT = 0.2
"""Mean grey level in [0,1] below which a set counts as dark: COCO has 0.44, LOL's dark images have 0.06."""

_LOOKED_AT = 50

#: Ending of the names of levels that `detection.data.phone` simulates in place of a bare sensor.
PHONE = "-phone"

_CLEAN = "clean"
# Text chunk of each PNG that names its source, so that a file of another set or seed is not mistaken for it.
_ORIGIN = "glare-origin"


def darken(dataset: Dataset, *levels: str, seed: int = 0, draws: int = 1) -> Dataset:
    """Return the set as it would look in little light, with the original as the clean reference.

    The images are darkened when they are loaded. The light and the noise of an image depend on
    ``(seed, name, level)`` alone, so every load returns the same pixels. All levels and draws of one photograph
    follow each other. `write_darkened` writes the same images of one draw to files.

    Args:
        dataset: a set in normal light.
        levels: one or more of mild, dark, extreme for a bare sensor (`glare.data.degrade.LEVELS`), and mild-phone,
            dark-phone, extreme-phone for a telephone (`detection.data.phone`).
        seed: seed of the lights and the noise.
        draws: how many times each photograph is darkened at each level, by this seed and those that follow it. What
            is measured then depends less on the luck of one draw; photographs are no more than before.

    Raises:
        ValueError: if a level is unknown or none is given, or ``draws`` is not positive.

    >>> from detection import sample_set
    >>> night = darken(sample_set(), "dark", "extreme")
    >>> [(sample.name, sample.light) for sample in night.samples[:2]]
    [('bus.jpg', 'dark'), ('bus.jpg', 'extreme')]
    """
    if not levels:
        raise ValueError("Expected argument `levels` to name at least one light level but got none.")
    for level in levels:
        if level.removesuffix(PHONE) not in LEVELS:
            known = ", ".join([*(f"{name}{PHONE}" for name in LEVELS), *LEVELS])
            raise ValueError(f"Expected argument `level` to be one of {known} but got {level!r}.")
    if draws < 1:
        raise ValueError(f"Expected argument `draws` to be positive but got {draws}.")
    samples = [
        replace(
            sample,
            load=partial(_load_darkened, sample.load, sample.name, level, seed + draw),
            light=level,
            reference=sample.load,
            path=None,
            reference_path=sample.path,
            draw=draw,
        )
        for sample in dataset.samples
        for level in levels
        for draw in range(draws)
    ]
    return dataset.replace(samples=tuple(samples), left_out=dataset.left_out * len(levels) * draws)


def mean_grey(dataset: Dataset) -> float:
    """Return the mean grey level of a set in [0,1], over some fifty of its images; NaN if no image can be read."""
    step = max(1, len(dataset) // _LOOKED_AT)
    levels = []
    for sample in dataset.samples[::step]:
        with suppress(OSError, ValueError):  # the evaluation reports the fault
            levels.append(float(sample.load().mean()) / 255)
    return sum(levels) / len(levels) if levels else float("nan")


def _load_darkened(load: Callable[[], Pixels], name: str, level: str, seed: int) -> Pixels:
    return darken_image(load(), name, level, seed)


def darken_image(clean: Pixels, name: str, level: str, seed: int) -> Pixels:
    """Darken one image, (H, W, 3) uint8 RGB; the result depends on the arguments alone."""
    generator = generator_for(seed, name, level)
    exposure = sample_exposure(level.removesuffix(PHONE), generator)
    if level.endswith(PHONE):
        return phone(clean, exposure, generator)
    dark = degrade(
        torch.tensor(clean).permute(2, 0, 1).float() / 255,
        exposure=exposure,
        cast=sample_cast(generator),
        generator=generator,
    )
    pixels: Pixels = (dark * 255).round().to(torch.uint8).permute(1, 2, 0).contiguous().numpy()
    return pixels


def write_darkened(dataset: Dataset, folder: str | Path, *levels: str, seed: int = 0) -> Dataset:
    """Write a set as it would look in little light, and its clean references, to files.

    The pixels are those of ``darken(dataset, *levels, seed=seed)``. The images go to ``images/<level>/`` and
    ``images/clean/`` as PNG, everything else to ``annotations.json``, which `read_dataset` reads back. A run
    that was stopped goes on: files that were made from the same image, level and seed are kept.

    Args:
        dataset: a set in normal light.
        folder: the folder to write to.
        levels: one or more, see `darken`.
        seed: seed of the lights and the noise.

    Returns:
        The set as `read_dataset` reads it from the folder. Its `faults` are those of the clean set, and one line for
        each image that could not be read and is left out.

    Raises:
        ValueError: if a level is unknown or none is given, or two images have one name.

    >>> import tempfile
    >>> from detection import read_dataset, sample_set
    >>> folder, day = Path(tempfile.mkdtemp()), sample_set()
    >>> night = write_darkened(day.replace(samples=day.samples[3:4]), folder, "dark")
    >>> [sample.name for sample in read_dataset(folder).samples]
    ['chelsea.png']
    """
    darken(dataset, *levels, seed=seed)  # raises the error of an unknown level before a file is written
    names = [_png_name(sample) for sample in dataset.samples]
    if twice := [name for name, count in Counter(map(str.casefold, names)).items() if count > 1]:
        raise ValueError(
            f"Expected argument `dataset` to have images of different names but got {twice[0]} twice."
        )
    folder = Path(folder)
    images = folder / "images"
    images.mkdir(parents=True, exist_ok=True)
    faults = list(dataset.faults)
    samples: list[Sample] = []
    entries: list[dict[str, Any]] = []
    bar = tqdm(dataset.samples, desc="darken", unit="image", disable=None)
    for sample, name in zip(bar, names, strict=True):
        try:
            size = _write_levels(sample, images, name, levels, seed)
        except (OSError, ValueError) as error:
            faults.append(f"{sample.name}: {error}")
            continue
        for level in levels:
            dark = replace(sample, light=level)
            samples.append(dark)
            entries.append(image_entry(dark, f"{level}/{name}", size, reference=f"{_CLEAN}/{name}"))
    write_entries(dataset.replace(samples=tuple(samples)), entries, folder / "annotations.json")
    written = read_coco(folder / "annotations.json", images, classes=dataset.classes)
    left_out = (len(dataset) + dataset.left_out) * len(levels) - len(samples)
    return written.replace(faults=tuple(faults), left_out=left_out)


def _png_name(sample: Sample) -> str:
    name = relative_name(sample.name).as_posix()
    return name if name.lower().endswith(".png") else f"{name}.png"


def _write_levels(
    sample: Sample, images: Path, name: str, levels: tuple[str, ...], seed: int
) -> tuple[int, int]:
    """Write the missing images of one photograph, and return its (width, height)."""
    content = sample.path.read_bytes() if sample.path else b""
    origin = f"{sample.name} {hashlib.sha256(content).hexdigest()}"
    wanted = {_CLEAN: origin} | {level: f"{origin} {level} {seed}" for level in levels}
    missing = [light for light, made_from in wanted.items() if _origin(images / light / name) != made_from]
    if missing:
        clean = sample.load()
        for light in missing:
            pixels = clean if light == _CLEAN else darken_image(clean, sample.name, light, seed)
            _write_png(pixels, images / light / name, wanted[light])
    with open_image(images / _CLEAN / name) as image:
        return image.size


def _origin(file: Path) -> str | None:
    try:
        with open_image(file) as image:
            made_from: str | None = image.info.get(_ORIGIN)
            return made_from
    except OSError:  # the file is missing or no image
        return None


def _write_png(pixels: Pixels, file: Path, origin: str) -> None:
    text = PngInfo()
    text.add_itxt(_ORIGIN, origin)
    with whole_file(file) as beside:
        Image.fromarray(pixels).save(beside, format="PNG", pnginfo=text)
